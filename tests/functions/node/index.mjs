// Answers what it was told and found, fails when it is told to, and streams.

import { createRequire } from 'node:module';

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const handler = async (event, context) => {
  console.log('told', event);
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
  response.setContentType('text/plain');
  response.write('first,');
  await sleep(event.pauseMs);
  response.write('second');
  response.end();
});
