'use strict';
// Errors as Lambda tells them to who called the function, and to who reads its log.

/// Longest type that is said in a header, in characters: what guest-init keeps. One that is far longer it would not read at all.
const MAX_TYPE_LENGTH = 256;

/// What is said of a thrown value that cannot be asked what it is: AWS's words.
const UNTOLD = {
  errorType: 'handled',
  errorMessage:
    'callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack',
  trace: [],
};

/// An error of the runtime's, which names itself `Runtime.…`.
class RuntimeError extends Error {
  constructor(name, message, cause) {
    super(message, { cause });
    this.name = `Runtime.${name}`;
  }
}

/// What ended the process although the function threw nothing of its own.
function fatal(name, reason) {
  const { errorType, errorMessage } = shape(reason);
  const error = new RuntimeError(name, isError(reason) ? `${errorType}: ${errorMessage}` : errorMessage, reason);
  if (isError(reason)) error.reason = reason;
  return error;
}

/// Whether a value is an error, of this realm or another.
function isError(value) {
  return value instanceof Error || Object.prototype.toString.call(value) === '[object Error]';
}

/// What the caller is told; a function may throw anything, and what is thrown may throw when it is looked at.
function shape(thrown) {
  try {
    if (!isError(thrown)) return { errorType: typeof thrown, errorMessage: String(thrown), trace: [] };
    // The type is a header's value, too.
    const errorType = String(thrown.name).replace(/[^\x20-\x7e]/g, '?');
    return { errorType, errorMessage: String(thrown.message), trace: String(thrown.stack ?? '').split('\n') };
  } catch {
    return UNTOLD;
  }
}

/// As it is sent.
function encode(thrown) {
  const shaped = shape(thrown);
  return { errorType: shaped.errorType.slice(0, MAX_TYPE_LENGTH), document: JSON.stringify(shaped) };
}

/// For the log: a tab and JSON, with what else the error carries.
function describe(thrown) {
  const { errorType, errorMessage, trace } = shape(thrown);
  try {
    const seen = isError(thrown) ? { ...thrown } : {};
    delete seen.name;
    if (isError(seen.reason)) seen.reason = shape(seen.reason);
    return `\t${JSON.stringify({ errorType, errorMessage, ...seen, stack: trace })}`;
  } catch {
    // It carries what is no JSON, or what cannot be read.
    return `\t${JSON.stringify({ errorType, errorMessage, stack: trace })}`;
  }
}

module.exports = { RuntimeError, describe, encode, fatal, isError };
