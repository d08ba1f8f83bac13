// Answers what it was told and found, fails when it is told to, also oddly, and streams.

import { createRequire } from 'node:module';

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// What cannot be asked what it is; what has a name that no header can have.
const odd = {
  bare: () => Object.create(null),
  silent: () => Object.defineProperty(new Error(), 'message', { get: () => x }),
  long: () => Object.assign(new Error('long'), { name: 'N'.repeat(600_000) }),
};

export const handler = async (event, context) => {
  console.log('told', event);
  if (event.odd) throw odd[event.odd]();
  if (event.fail) throw new RangeError(event.fail);
  return {
    event,
    requestId: context.awsRequestId,
    functionName: context.functionName,
    remainingMs: context.getRemainingTimeInMillis(),
    traceId: process.env._X_AMZN_TRACE_ID,
    local: createRequire('/var/task/')('local').is,
  };
};

export const streaming = awslambda.streamifyResponse(async (event, response) => {
  const round = new RangeError('round');
  round.self = round;
  console.error('no JSON, but a line:', round);
  response.setContentType('text/plain');
  response.write('first,');
  await sleep(event.pauseMs);
  response.write('second');
  response.end();
});
