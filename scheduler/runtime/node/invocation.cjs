// One call from its event to its answer. run() is done once it is known what to answer; it gives what answers it and asks for the
// next call.
//
// A handler answers by a promise, or by a callback. A callback's result is sent once nothing is left to happen in the process,
// unless the handler said that it does not want to wait for that; a promise's result is sent at once. A handler that
// did neither when nothing is left to happen has answered null, or has failed if it is async: its promise will never settle.
'use strict';

const { make } = require('./context.cjs');
const { RuntimeError, logText, serialise } = require('./failures.cjs');
const logging = require('./logging.cjs');
const { ResponseStream, highWaterMark, streams } = require('./streaming.cjs');

const NEVER_SETTLED =
  'The Lambda runtime client detected an unexpected Node.js exit code. This is most commonly caused by a Promise that was never ' +
  'settled. For more information, see https://nodejs.org/docs/latest/api/process.html#exit-codes';

function toJson(value) {
  try {
    return JSON.stringify(value === undefined ? null : value) ?? 'null';
  } catch {
    throw new Error('Unable to stringify response body');
  }
}

class Invocation {
  answered = false;
  _finished; // resolves run()
  _leftOver = () => {}; // what to do when nothing is left to happen

  constructor(client, handler, fixed, call) {
    this.client = client;
    this.handler = handler;
    this.call = call;
    this.id = call.id;
    this.fixed = fixed;
    this.done = new Promise((resolve) => {
      this._finished = resolve;
    });
  }

  static kindOf(handler) {
    return streams(handler) ? Streamed : Buffered;
  }

  nothingLeft() {
    if (!this.answered) {
      this._leftOver();
    }
  }

  run() {
    try {
      this._start();
    } catch (thrown) {
      this._failed(thrown);
    }
    return this.done;
  }

  _answer(ask) {
    if (!this.answered) {
      this.answered = true;
      this._finished(ask);
    }
  }

  _failed(thrown) {
    if (this.answered) {
      return;
    }
    logging.failure('Invoke Error', thrown, logText);
    const error = serialise(thrown);
    this._answer(() => this.client.fail(this.id, error));
  }
}

class Buffered extends Invocation {
  _start() {
    const state = { waits: true };
    const succeed = (value) => this.#done(null, value);
    const fail = (error) => this.#done(error ?? 'handled');
    const finish = { succeed, fail, done: (error, value) => this.#done(error, value) };
    const context = make(this.fixed, this.call, state, finish);
    const callback = (error, value) => {
      if (error !== undefined && error !== null) {
        this._failed(error);
      } else if (state.waits) {
        this._leftOver = () => this.#done(null, value);
      } else {
        this.#done(null, value);
      }
    };
    this._leftOver = () => this.#done(null, null);
    const body = this.call.body;
    const result = this.handler(body.length ? JSON.parse(body) : {}, context, callback);
    if (typeof result?.then === 'function') {
      this._leftOver = () => this._failed(new RuntimeError('Runtime.NodeJsExit', NEVER_SETTLED));
      result.then(succeed, fail);
    }
  }

  #done(error, value) {
    if (error !== undefined && error !== null) {
      this._failed(error);
      return;
    }
    let body;
    try {
      body = toJson(value);
    } catch (refused) {
      this._failed(refused);
      return;
    }
    this._answer(() => this.client.respond(this.id, body));
  }
}

class Streamed extends Invocation {
  #stream;

  _start() {
    this.#stream = new ResponseStream((type) => this.client.stream(this.id, type), highWaterMark(this.handler));
    this.#stream.on('error', (error) => this._failed(error));
    this.#stream.on('finish', () => this._answer(() => this.#next()));
    this._leftOver = () => this._failed(new RuntimeError('Runtime.NodeJsExit', NEVER_SETTLED));
    const none = () => {};
    const context = make(this.fixed, this.call, { waits: true }, { succeed: none, fail: none, done: none });
    const body = this.call.body;
    const result = this.handler(body.length ? JSON.parse(body) : {}, this.#stream, context);
    Promise.resolve(result).catch((thrown) => this._failed(thrown));
  }

  async #next() {
    await this.#stream.arrived;
    return this.client.next();
  }

  _failed(thrown) {
    if (this.answered || !this.#stream?.opened) {
      super._failed(thrown);
      return;
    }
    logging.failure('Invoke Error', thrown, logText);
    this.#stream.breakOff(serialise(thrown));
    this._answer(() => this.#next());
  }
}

module.exports = { Invocation };
