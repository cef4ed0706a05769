// Handlers that answer in pieces: `awslambda.streamifyResponse(handler)` and `awslambda.HttpResponseStream.from(stream, prelude)`.
'use strict';

const { Writable } = require('node:stream');

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const HTTP_CONTENT_TYPE = 'application/vnd.awslambda.http-integration-response';
const PRELUDE_END = Buffer.alloc(8); // NUL bytes, which no JSON holds

class ResponseStream extends Writable {
  #open; // (contentType) => what client.stream() gives
  #wire = null;
  #contentType = 'application/octet-stream';
  #prelude = null;

  constructor(open, highWaterMark) {
    super(highWaterMark === undefined ? {} : { highWaterMark });
    this.#open = open;
  }

  get opened() {
    return this.#wire !== null;
  }

  // The API's word that it has all of it.
  get arrived() {
    return this.#wire.arrived;
  }

  setContentType(contentType) {
    if (this.#wire !== null) {
      throw new Error('the content type cannot be set any more: the answer has begun');
    }
    this.#contentType = String(contentType).replace(/[\r\n\0]/g, ' ');
  }

  _setPrelude(text) {
    this.setContentType(HTTP_CONTENT_TYPE);
    this.#prelude = Buffer.concat([Buffer.from(text, 'utf8'), PRELUDE_END]);
  }

  #begin() {
    if (this.#wire === null) {
      this.#wire = this.#open(this.#contentType);
      if (this.#prelude !== null) {
        this.#wire.write(this.#prelude);
      }
    }
    return this.#wire;
  }

  _write(data, encoding, done) {
    if (data.length === 0) {
      done(); // an empty chunk would end the answer
    } else {
      this.#begin().write(data, done);
    }
  }

  _final(done) {
    this.#begin().end();
    done();
  }

  // Something was thrown after the answer had begun: it follows behind the last piece.
  breakOff(error) {
    this.#wire.end(error);
    this.destroy();
  }

  // What is written may be anything that JSON can say, as Lambda has it.
  write(data, encoding, done) {
    if (typeof data !== 'string' && !ArrayBuffer.isView(data)) {
      data = JSON.stringify(data === undefined ? null : data);
    }
    return super.write(data, encoding, done);
  }
}

class HttpResponseStream {
  static from(stream, prelude) {
    stream._setPrelude(JSON.stringify(prelude));
    return stream;
  }
}

// What stays the same for handlers of any function: the global `awslambda`.
function install() {
  globalThis.awslambda = {
    streamifyResponse(handler, options) {
      handler[STREAMING] = 'response';
      if (typeof options?.highWaterMark === 'number') {
        handler[HIGH_WATER_MARK] = options.highWaterMark;
      }
      return handler;
    },
    HttpResponseStream,
  };
}

const streams = (handler) => handler[STREAMING] === 'response';
const highWaterMark = (handler) => handler[HIGH_WATER_MARK];

module.exports = { ResponseStream, highWaterMark, install, streams };
