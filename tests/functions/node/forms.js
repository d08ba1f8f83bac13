'use strict';
// Handlers of every form that is no promise.

exports.callback = (event, context, callback) => callback(null, { from: event });
exports.late = (event, context, callback) => {
  // The answer waits for what is left to do.
  setTimeout(() => (event.seen = true), 50);
  callback(null, event);
};
exports.early = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setInterval(() => {}, 1000);
  callback(null, 'early');
};
exports.failing = (event, context, callback) => callback(new TypeError('no wick'));
exports.done = (event, context) => context.done(null, 'done');
exports.succeed = (event, context) => context.succeed('succeeded');
exports.fail = (event, context) => context.fail(new RangeError('damp'));
exports.silent = () => {};

// One start of Node.js for all of them.
exports.any = (event, context, callback) => exports[event.form](event.event, context, callback);
