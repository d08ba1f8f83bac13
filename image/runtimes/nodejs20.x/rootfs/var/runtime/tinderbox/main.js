'use strict';
// The life of the runtime: loads the function, then hands it one event after the other.

const { Client } = require('./client.js');
const { load } = require('./handler.js');
const { Context } = require('./context.js');
const { fatal } = require('./errors.js');
const invoke = require('./invoke.js');
const log = require('./log.js');
const stream = require('./stream.js');

// What a process says with its status when nobody caught an error: as Lambda's.
const STATUS_OF = { uncaughtException: 129, unhandledRejection: 128 };

/// Serves the function in the folder `taskRoot` until its process ends.
async function run(taskRoot) {
  const client = new Client(process.env.AWS_LAMBDA_RUNTIME_API);
  log.patch(console);
  stream.offer(globalThis);
  // How an error is told that nobody catches: the init's, then each event's. Between events it is nobody's: told in the next one's
  // turn, behind the call that waits for that, it would end this process with that event.
  const nobody = async () => {};
  let tell = (error) => client.initError(error);
  let ending = false;
  const end = async (error, said, status) => {
    if (ending) return;
    ending = true;
    log.failed(said, error);
    await tell(error);
    process.exit(status);
  };
  process.on('uncaughtException', (error) => end(error, 'Uncaught Exception', STATUS_OF.uncaughtException));
  process.on('unhandledRejection', (reason) => {
    const error = fatal('UnhandledPromiseRejection', reason);
    end(error, 'Unhandled Promise Rejection', STATUS_OF.unhandledRejection);
  });

  let handler;
  try {
    handler = await load(taskRoot, process.env._HANDLER ?? '');
  } catch (error) {
    await end(error, 'Uncaught Exception', STATUS_OF.uncaughtException);
  }
  for (;;) {
    tell = nobody;
    const { headers, event } = await client.next();
    const id = headers['lambda-runtime-aws-request-id'];
    tell = (error) => client.error(id, error);
    log.requestIs(id);
    trace(headers['lambda-runtime-trace-id']);
    await invoke.once(client, handler, new Context(headers), event);
  }
}

/// Where tracing libraries look.
function trace(id) {
  if (id) process.env._X_AMZN_TRACE_ID = id;
  else delete process.env._X_AMZN_TRACE_ID;
}

module.exports = { run };
