// The Runtime API over one connection that is kept. Requests are answered in the order in which they were sent, so an answer and
// the question for the next call go out together: one write and one wake-up for a call, not two.
//
// The reader understands what a server of HTTP/1.1 may send here: a length, or chunks; one response behind another in one piece.
'use strict';

const net = require('node:net');

const VERSION = '2018-06-01';
const HEAD_BYTES_MAX = 256 * 1024;
const BODY_BYTES_MAX = 64 * 1024 * 1024;
const EMPTY = Buffer.alloc(0);
const END_OF_HEAD = Buffer.from('\r\n\r\n');

class ApiError extends Error {}

// Responses out of pieces. push(piece) gives to `deliver` each one that is whole: { status, headers (names in lower case), body }.
class Reader {
  #deliver;
  #have = EMPTY;
  #head = null; // of the response whose body is being read
  #more = []; // pieces of a body that is not whole yet
  #missing = 0; // bytes of it

  constructor(deliver) {
    this.#deliver = deliver;
  }

  push(piece) {
    if (this.#missing > 0) {
      this.#more.push(piece);
      this.#missing -= piece.length;
      if (this.#missing > 0) {
        return; // a large body is joined once, not at each piece
      }
      piece = Buffer.concat(this.#more);
      this.#more = [];
      this.#missing = 0;
    }
    this.#have = this.#have.length ? Buffer.concat([this.#have, piece]) : piece;
    while (this.#have.length > 0 && this.#step());
  }

  #step() {
    if (this.#head === null && !this.#readHead()) {
      return false;
    }
    const body = this.#head.chunked ? this.#readChunks() : this.#readLength();
    if (body === null) {
      return false;
    }
    const { status, headers } = this.#head;
    this.#head = null;
    if (status >= 200) {
      this.#deliver({ status, headers, body });
    }
    return true;
  }

  #readHead() {
    const end = this.#have.indexOf(END_OF_HEAD);
    if (end < 0) {
      if (this.#have.length > HEAD_BYTES_MAX) {
        throw new ApiError(`a response's head is longer than ${HEAD_BYTES_MAX} bytes`);
      }
      return false;
    }
    // latin1 is the fast way to text, and right for all but a client context's own letters, which decode() brings back.
    const lines = this.#have.latin1Slice(0, end).split('\r\n');
    const status = Number(lines[0].slice(9, 12));
    if (!lines[0].startsWith('HTTP/1.') || !(status >= 100 && status < 600)) {
      throw new ApiError(`this is no HTTP: ${JSON.stringify(lines[0].slice(0, 80))}`);
    }
    const headers = {};
    for (let i = 1; i < lines.length; i++) {
      const colon = lines[i].indexOf(':');
      headers[lines[i].slice(0, colon).toLowerCase()] = lines[i].slice(colon + 1).trim();
    }
    const chunked = (headers['transfer-encoding'] ?? '').toLowerCase() === 'chunked';
    const length = Number(headers['content-length'] ?? 0);
    if (!chunked && !(Number.isInteger(length) && length >= 0 && length <= BODY_BYTES_MAX)) {
      throw new ApiError(`a response's length is ${headers['content-length']}, must be 0 to ${BODY_BYTES_MAX}`);
    }
    this.#head = { status, headers, chunked, length: status === 204 || status < 200 ? 0 : length };
    this.#have = this.#have.subarray(end + 4);
    return true;
  }

  #readLength() {
    const { length } = this.#head;
    if (this.#have.length < length) {
      this.#missing = length - this.#have.length;
      this.#more = [this.#have];
      this.#have = EMPTY;
      return null;
    }
    const body = this.#have.subarray(0, length);
    this.#have = this.#have.subarray(length);
    return body;
  }

  #readChunks() {
    const parts = [];
    for (let at = 0; ;) {
      const eol = this.#have.indexOf('\r\n', at);
      if (eol < 0) {
        return null;
      }
      const size = parseInt(this.#have.latin1Slice(at, eol), 16);
      if (!(size >= 0 && size <= BODY_BYTES_MAX)) {
        throw new ApiError('a chunk of a response has no size');
      }
      if (size === 0) {
        // Trailers, or none: an empty line ends them.
        const end = this.#have.indexOf('\r\n\r\n', eol);
        if (end < 0) {
          return null;
        }
        this.#have = this.#have.subarray(end + 4);
        return Buffer.concat(parts);
      }
      if (this.#have.length < eol + 2 + size + 2) {
        return null;
      }
      parts.push(this.#have.subarray(eol + 2, eol + 2 + size));
      at = eol + 2 + size + 2;
    }
  }
}

function decode(text) {
  return text === undefined ? undefined : Buffer.from(text, 'latin1').toString('utf8');
}

class Client {
  #socket;
  #host;
  #root = `/${VERSION}/runtime/`;
  #expected = []; // who waits for which response, in order
  #reader = new Reader((response) => this.#expected.shift()?.answered(response));

  // address: "host:port", the value of AWS_LAMBDA_RUNTIME_API. ended: called once when the other side has gone.
  constructor(address, ended) {
    const colon = address.lastIndexOf(':');
    this.#host = address;
    this.#socket = net.connect({ host: address.slice(0, colon), port: Number(address.slice(colon + 1)), noDelay: true });
    this.#socket.on('data', (piece) => this.#reader.push(piece));
    this.#socket.on('error', ended);
    this.#socket.on('close', ended);
  }

  // While a handler runs the connection alone shall not keep the process alive: that nothing is left to happen has to be noticed.
  ref() {
    this.#socket.ref();
  }

  unref() {
    this.#socket.unref();
  }

  close() {
    this.#socket.destroy();
  }

  #expect() {
    return new Promise((answered) => this.#expected.push({ answered }));
  }

  #get(what) {
    return `GET ${this.#root}${what} HTTP/1.1\r\nHost: ${this.#host}\r\n\r\n`;
  }

  #post(what, headers, body) {
    const length = Buffer.byteLength(body);
    return `POST ${this.#root}${what} HTTP/1.1\r\nHost: ${this.#host}\r\n${headers}Content-Length: ${length}\r\n\r\n${body}`;
  }

  // The next call: { id, arn, deadlineMs, trace, clientContext, identity, tenant, body }. ApiError: it was refused.
  async next() {
    this.#socket.write(this.#get('invocation/next'));
    return Client.#call(await this.#expect());
  }

  static #call({ status, headers, body }) {
    if (status !== 200) {
      throw new ApiError(`asked for the next call, the API answered ${status}: ${body.toString().slice(0, 500)}`);
    }
    return {
      id: headers['lambda-runtime-aws-request-id'],
      arn: headers['lambda-runtime-invoked-function-arn'],
      deadlineMs: Number(headers['lambda-runtime-deadline-ms']),
      trace: headers['lambda-runtime-trace-id'],
      clientContext: decode(headers['lambda-runtime-client-context']),
      identity: decode(headers['lambda-runtime-cognito-identity']),
      tenant: decode(headers['lambda-runtime-aws-tenant-id']),
      body,
    };
  }

  // Answers a call and asks for the next one. body: JSON text.
  respond(id, body) {
    return this.#postThenNext(this.#post(`invocation/${id}/response`, 'Content-Type: application/json\r\n', body));
  }

  // The same with an error: { type, body } of failures.serialise().
  fail(id, error) {
    return this.#postThenNext(this.#error(`invocation/${id}/error`, error));
  }

  #error(what, { type, body }) {
    const headers = `Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: ${type}\r\n`;
    return this.#post(what, headers, body);
  }

  async #postThenNext(request) {
    this.#socket.write(request + this.#get('invocation/next'));
    const posted = this.#expect();
    const next = this.#expect();
    posted.then(({ status, body }) => {
      if (status >= 300) {
        process.stderr.write(`the API refused an answer with ${status}: ${body.toString().slice(0, 500)}\n`);
      }
    });
    return Client.#call(await next);
  }

  // An error after which the process ends; done once it has arrived.
  async failLast(id, error) {
    this.#socket.write(this.#error(id === undefined ? 'init/error' : `invocation/${id}/error`, error));
    await this.#expect();
  }

  // An answer in pieces: { write(data, done), end(trailers), arrived }, arrived: a promise. done: the socket has taken it.
  stream(id, contentType) {
    const trailers = 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body';
    this.#socket.write(
      `POST ${this.#root}invocation/${id}/response HTTP/1.1\r\nHost: ${this.#host}\r\nContent-Type: ${contentType}\r\n` +
        `Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\nTrailer: ${trailers}\r\n\r\n`,
    );
    const arrived = this.#expect();
    return {
      arrived,
      write: (data, done) => {
        this.#socket.cork();
        this.#socket.write(`${data.length.toString(16)}\r\n`);
        this.#socket.write(data);
        this.#socket.write('\r\n', done);
        this.#socket.uncork();
      },
      end: (error) => {
        let end = '0\r\n';
        if (error) {
          const encoded = Buffer.from(error.body).toString('base64');
          end += `Lambda-Runtime-Function-Error-Type: ${error.type}\r\nLambda-Runtime-Function-Error-Body: ${encoded}\r\n`;
        }
        this.#socket.write(`${end}\r\n`);
      },
    };
  }
}

module.exports = { ApiError, Client, Reader };
