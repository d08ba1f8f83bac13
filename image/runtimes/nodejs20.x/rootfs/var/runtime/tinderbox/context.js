'use strict';
// What a handler is told beside the event.

class Context {
  #deadlineMs;

  /// `headers` are those of the event.
  constructor(headers) {
    this.callbackWaitsForEmptyEventLoop = true;
    this.functionName = process.env.AWS_LAMBDA_FUNCTION_NAME;
    this.functionVersion = process.env.AWS_LAMBDA_FUNCTION_VERSION;
    this.memoryLimitInMB = process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE;
    this.logGroupName = process.env.AWS_LAMBDA_LOG_GROUP_NAME;
    this.logStreamName = process.env.AWS_LAMBDA_LOG_STREAM_NAME;
    this.clientContext = parsed(headers['lambda-runtime-client-context']);
    this.identity = parsed(headers['lambda-runtime-cognito-identity']);
    this.invokedFunctionArn = headers['lambda-runtime-invoked-function-arn'];
    this.awsRequestId = headers['lambda-runtime-aws-request-id'];
    this.#deadlineMs = Number(headers['lambda-runtime-deadline-ms']);
    // A function of its own: handlers take it out of the context.
    this.getRemainingTimeInMillis = () => this.#deadlineMs - Date.now();
  }
}

/// Clients send it: it may be no JSON.
function parsed(header) {
  if (!header) return undefined;
  try {
    return JSON.parse(header);
  } catch {
    return undefined;
  }
}

module.exports = { Context };
