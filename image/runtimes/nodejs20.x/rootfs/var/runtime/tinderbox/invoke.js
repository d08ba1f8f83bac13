'use strict';
// One event: calls the handler in whichever of its forms it is written, and answers with what comes of it.
//
// A handler answers once: by its promise, by its callback, or by `context.succeed`, `fail` and `done`; what comes later is not
// heard. A callback's answer is sent when the event loop is empty, unless the handler said that it need not wait. A loop that is
// empty without an answer is the end of the call, too.

const { Client } = require('./client.js');
const { RuntimeError } = require('./errors.js');
const log = require('./log.js');
const stream = require('./stream.js');

/// Has the handler answer one event. Returns when the answer is sent.
async function once(client, handler, context, event) {
  if (stream.isStreaming(handler)) return streamed(client, handler, context, event);
  const id = context.awsRequestId;
  const outcome = await called(handler, context, event);
  if ('error' in outcome) {
    log.failed('Invoke Error', outcome.error);
    await client.error(id, outcome.error);
  } else {
    await client.response(id, outcome.document);
  }
}

/// What a handler that does not stream answers: `{ document }` or `{ error }`.
function called(handler, context, event) {
  return new Promise((resolve) => {
    const settle = (outcome) => {
      process.removeListener('beforeExit', nothingLeft);
      resolve(outcome);
    };
    const succeed = (result) => settle(serialised(result));
    const fail = (error) => settle({ error: error ?? 'handled' });
    let answer = () => (isAsync(handler) ? fail(neverSettled()) : succeed(null));
    const nothingLeft = () => answer();
    const callback = (error, result) => {
      if (error !== undefined && error !== null) return fail(error);
      if (!context.callbackWaitsForEmptyEventLoop) return succeed(result);
      answer = () => succeed(result);
    };
    process.on('beforeExit', nothingLeft);
    Object.assign(context, {
      succeed: (result) => succeed(result),
      fail: (error) => fail(error),
      done: (error, result) => (error !== undefined && error !== null ? fail(error) : succeed(result)),
    });
    try {
      const returned = handler(JSON.parse(event), context, callback);
      if (typeof returned?.then === 'function') returned.then(succeed, fail);
    } catch (error) {
      fail(error);
    }
  });
}

/// The handler writes the answer itself.
async function streamed(client, handler, context, event) {
  const id = context.awsRequestId;
  const response = new stream.ResponseStream(client, id);
  let nothingLeft;
  try {
    const emptied = new Promise((_, reject) => {
      nothingLeft = () => reject(neverSettled());
      process.on('beforeExit', nothingLeft);
    });
    const returned = handler(JSON.parse(event), response, context);
    if (typeof returned?.then !== 'function') throw new Error('Streaming does not support non-async handlers.');
    await Promise.race([returned, emptied]);
    await Promise.race([response.sent, emptied]);
  } catch (error) {
    log.failed('Invoke Error', error);
    if (response.begun) await response.breakOff(Client.trailers(error));
    else await client.error(id, error);
  } finally {
    process.removeListener('beforeExit', nothingLeft);
  }
}

function serialised(result) {
  try {
    return { document: JSON.stringify(result === undefined ? null : result) ?? 'null' };
  } catch {
    return { error: new Error('Unable to stringify response body') };
  }
}

function isAsync(handler) {
  return handler.constructor?.name === 'AsyncFunction';
}

function neverSettled() {
  return new RuntimeError(
    'NodeJsExit',
    'The event loop is empty, and the promise of the handler is not settled: nothing is left that could settle it.',
  );
}

module.exports = { once };
