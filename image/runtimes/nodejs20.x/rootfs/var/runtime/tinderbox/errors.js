'use strict';
// Errors as Lambda tells them to who called the function, and to who reads its log.

/// An error of the runtime's, which names itself `Runtime.…`.
class RuntimeError extends Error {
  constructor(name, message, cause) {
    super(message, { cause });
    this.name = `Runtime.${name}`;
  }
}

/// What ended the process although the function threw nothing of its own.
function fatal(name, reason) {
  const error = new RuntimeError(name, String(reason), reason);
  if (isError(reason)) error.reason = reason;
  return error;
}

/// Whether a value is an error, of this realm or another.
function isError(value) {
  return value instanceof Error || Object.prototype.toString.call(value) === '[object Error]';
}

/// What the caller is told; a function may throw anything.
function shape(thrown) {
  if (!isError(thrown)) return { errorType: typeof thrown, errorMessage: String(thrown), trace: [] };
  // The type is a header's value, too.
  const errorType = String(thrown.name).replace(/[^\x20-\x7e]/g, '?');
  return { errorType, errorMessage: String(thrown.message), trace: String(thrown.stack ?? '').split('\n') };
}

/// As it is sent.
function encode(thrown) {
  const shaped = shape(thrown);
  return { errorType: shaped.errorType, document: JSON.stringify(shaped) };
}

/// For the log: a tab and JSON, with what else the error carries.
function describe(thrown) {
  const { errorType, errorMessage, trace } = shape(thrown);
  const seen = isError(thrown) ? { ...thrown } : {};
  delete seen.name;
  if (isError(seen.reason)) seen.reason = shape(seen.reason);
  try {
    return `\t${JSON.stringify({ errorType, errorMessage, ...seen, stack: trace })}`;
  } catch {
    // It carries what is no JSON.
    return `\t${JSON.stringify({ errorType, errorMessage, stack: trace })}`;
  }
}

module.exports = { RuntimeError, describe, encode, fatal, isError };
