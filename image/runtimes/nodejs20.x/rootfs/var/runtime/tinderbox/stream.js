'use strict';
// Responses that are written while they are made: what handlers find as `awslambda`.

const { Writable } = require('node:stream');
const { finished } = require('node:stream/promises');

/// Marks a handler that streams; the value says what: its response.
const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
/// Content type of a response that begins with its status and headers.
const WITH_PRELUDE = 'application/vnd.awslambda.http-integration-response';
/// What stands between these and the body.
const DELIMITER = Buffer.alloc(8);

/// A response to one event. The request that carries it begins with the first write, or the end.
class ResponseStream extends Writable {
  #client;
  #id;
  #contentType = 'application/octet-stream';
  #request;
  #answered;
  #prelude;

  constructor(client, id) {
    super();
    this.#client = client;
    this.#id = id;
    // When the response is with the Runtime API. Who waits for it sees its error, and nobody else need.
    this.sent = finished(this).then(() => this.#answered);
    this.sent.catch(() => {});
  }

  /// Whether the caller has begun to read, or could have.
  get begun() {
    return this.#request !== undefined;
  }

  setContentType(contentType) {
    this.#contentType = contentType;
  }

  /// Puts status and headers before what will be written.
  begin(prelude) {
    this.setContentType(WITH_PRELUDE);
    this.#prelude = Buffer.concat([Buffer.from(JSON.stringify(prelude)), DELIMITER]);
  }

  /// Ends it with an error behind what was written.
  async breakOff(trailers) {
    this.#request.addTrailers(trailers);
    this.#request.end();
    // One that was too long has been answered for.
    await this.#answered.catch(() => {});
  }

  #open() {
    if (this.#request) return;
    ({ request: this.#request, answered: this.#answered } = this.#client.stream(this.#id, this.#contentType));
    this.#answered.catch((error) => this.destroy(error));
    if (this.#prelude) this.#request.write(this.#prelude);
  }

  _write(piece, _encoding, written) {
    this.#open();
    this.#request.write(piece, written);
  }

  _final(ended) {
    this.#open();
    this.#request.end(ended);
  }
}

/// Marks a handler: `(event, responseStream, context)`.
function streamifyResponse(handler) {
  handler[STREAMING] = 'response';
  return handler;
}

/// Whether the handler writes its response itself.
function isStreaming(handler) {
  return handler[STREAMING] === 'response';
}

/// Gives handlers what they look for.
function offer(scope) {
  const from = (response, prelude) => {
    response.begin(prelude);
    return response;
  };
  scope.awslambda = { streamifyResponse, HttpResponseStream: { from } };
}

module.exports = { ResponseStream, isStreaming, offer };
