'use strict';
// What the console's methods write: lines as Lambda's, in text or as JSON.

const { format } = require('node:util');

const { describe, isError } = require('./errors.js');

/// From the least to the most severe.
const LEVELS = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];
const METHODS = { trace: 'TRACE', debug: 'DEBUG', info: 'INFO', log: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };

let requestId;

/// Which event lines are of from here on.
function requestIs(id) {
  requestId = id;
}

/// Writes an error that the function did not handle.
function failed(said, error) {
  try {
    console.error(said, isJson() && isError(error) ? error : describe(error));
  } catch {
    // It throws when it is looked at.
    console.error(said, describe(error));
  }
}

/// Has the console's methods write as the function's configuration says.
function patch(console) {
  const line = isJson() ? asJson : asText;
  // Of a level that is none, everything.
  const least = LEVELS.indexOf((process.env.AWS_LAMBDA_LOG_LEVEL ?? '').toUpperCase());
  for (const [method, level] of Object.entries(METHODS)) {
    const written = LEVELS.indexOf(level) >= least;
    // A pipe: written before the call returns.
    console[method] = written ? (...values) => void process.stdout.write(`${line(level, values)}\n`) : () => {};
  }
}

function isJson() {
  return process.env.AWS_LAMBDA_LOG_FORMAT === 'JSON';
}

function asText(level, values) {
  return `${new Date().toISOString()}\t${requestId}\t${level}\t${format(...values)}`;
}

function asJson(level, values) {
  const head = { timestamp: new Date().toISOString(), level, requestId };
  if (values.length === 1) {
    try {
      return JSON.stringify({ ...head, message: values[0] }, shown);
    } catch {
      // It is no JSON, but it can be printed.
    }
  }
  const error = values.length > 1 ? values.find(isError) : undefined;
  return JSON.stringify({ ...head, message: format(...values), ...(error && told(error)) });
}

/// An error that is the message, with what else it carries.
function shown(_name, value) {
  return isError(value) ? { ...value, ...told(value) } : value;
}

/// An error beside a message, which is no place for whatever else it carries: that may be no JSON.
function told(value) {
  return {
    errorType: value.constructor?.name ?? 'UnknownError',
    errorMessage: value.message,
    stackTrace: typeof value.stack === 'string' ? value.stack.split('\n') : [],
  };
}

module.exports = { failed, patch, requestIs };
