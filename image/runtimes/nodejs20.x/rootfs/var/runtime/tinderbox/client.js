'use strict';
// The Lambda Runtime API, as a client on one connection that stays open.

const http = require('node:http');

const { encode } = require('./errors.js');

const PREFIX = '/2018-06-01/runtime';
const ERROR_TYPE = 'Lambda-Runtime-Function-Error-Type';
const ERROR_BODY = 'Lambda-Runtime-Function-Error-Body';

class Client {
  /// `address` is `host:port`.
  constructor(address) {
    const [host, port] = address.split(':');
    // Its idle connection keeps no process alive: whether a function has something left to do is asked of the event loop.
    this.where = { host, port, agent: new http.Agent({ keepAlive: true, maxSockets: 1 }) };
  }

  /// The next event with its headers; waits until there is one.
  async next() {
    const { status, headers, body } = await this.call('GET', '/invocation/next', {}, undefined);
    // An event that is still open: whatever became of its answer, this is no other event.
    if (status !== 200) throw new Error(`The Runtime API answers ${status}: ${body}`);
    return { headers, event: body };
  }

  /// Answers with a document.
  async response(id, document) {
    return this.answer(`/invocation/${id}/response`, {}, document);
  }

  /// Says that the handler failed.
  async error(id, error) {
    return this.report(`/invocation/${id}/error`, error);
  }

  /// Says that there is no handler.
  async initError(error) {
    return this.report('/init/error', error);
  }

  async report(path, error) {
    const { errorType, document } = encode(error);
    return this.answer(path, { [ERROR_TYPE]: errorType }, document);
  }

  /// A document that is too long is not read to its end: the platform has answered for us then, and the connection is gone.
  async answer(path, headers, document) {
    return this.call('POST', path, { 'Content-Type': 'application/json', ...headers }, document).catch(() => {});
  }

  /// A request whose body is the response while it is made, and what becomes of it. It has a connection of its own.
  stream(id, contentType) {
    const headers = {
      'Content-Type': contentType,
      'Lambda-Runtime-Function-Response-Mode': 'streaming',
      'Transfer-Encoding': 'chunked',
      Trailer: `${ERROR_TYPE}, ${ERROR_BODY}`,
    };
    const path = `${PREFIX}/invocation/${id}/response`;
    const request = http.request({ ...this.where, agent: false, method: 'POST', path, headers });
    const answered = new Promise((resolve, reject) => {
      request.on('error', reject);
      request.on('response', (response) => response.resume().on('end', resolve).on('error', reject));
    });
    return { request, answered };
  }

  /// What stands behind a streamed response that ends with an error.
  static trailers(error) {
    const { errorType, document } = encode(error);
    return { [ERROR_TYPE]: errorType, [ERROR_BODY]: Buffer.from(document).toString('base64') };
  }

  call(method, path, headers, body) {
    if (body !== undefined) headers['Content-Length'] = Buffer.byteLength(body);
    return new Promise((resolve, reject) => {
      const request = http.request({ ...this.where, method, path: PREFIX + path, headers }, (response) => {
        const pieces = [];
        response.on('data', (piece) => pieces.push(piece));
        response.on('error', reject);
        response.on('end', () => {
          const { statusCode: status, headers } = response;
          resolve({ status, headers, body: Buffer.concat(pieces).toString() });
        });
      });
      request.on('error', reject);
      request.end(body);
    });
  }
}

module.exports = { Client };
