// One process: init, then calls until the other side has gone.
'use strict';

const { Client } = require('./client.cjs');
const { constants } = require('./context.cjs');
const failures = require('./failures.cjs');
const { Invocation } = require('./invocation.cjs');
const { find } = require('./loading.cjs');
const logging = require('./logging.cjs');
const streaming = require('./streaming.cjs');

const EXIT_INIT_FAILED = 1;
const EXIT_REJECTED = 128;
const EXIT_UNCAUGHT = 129;

// What can be done before the function is known.
function warm() {
  streaming.install();
}

class Process {
  #client;
  #running = null; // the call that runs
  #waiting = true; // for the first or another call: nothing of the function's can be the reason for an end
  #ending = false;

  constructor(address) {
    // Its end while nothing runs is the sandbox's end.
    this.#client = new Client(address, () => this.#ending || process.exit(this.#waiting ? 0 : EXIT_INIT_FAILED));
  }

  async run() {
    process.on('beforeExit', () => this.#running?.nothingLeft());
    process.on('uncaughtException', (error) => this.#die('Uncaught Exception', error, EXIT_UNCAUGHT));
    process.on('unhandledRejection', (reason) => {
      const error = new failures.RuntimeError('Runtime.UnhandledPromiseRejection', String(reason), reason);
      error.reason = reason;
      this.#die('Unhandled Promise Rejection', error, EXIT_REJECTED);
    });
    let handler;
    this.#waiting = false;
    try {
      handler = await find(process.env.LAMBDA_TASK_ROOT ?? process.cwd(), process.env._HANDLER ?? '');
    } catch (error) {
      return this.#die('Uncaught Exception', error, EXIT_INIT_FAILED);
    }
    const fixed = constants();
    const kind = Invocation.kindOf(handler);
    let call = await this.#wait(() => this.#client.next());
    for (;;) {
      logging.current.requestId = call.id;
      if (call.trace !== process.env._X_AMZN_TRACE_ID) {
        if (call.trace === undefined) {
          delete process.env._X_AMZN_TRACE_ID;
        } else {
          process.env._X_AMZN_TRACE_ID = call.trace;
        }
      }
      this.#running = new kind(this.#client, handler, fixed, call);
      this.#client.unref();
      const answer = await this.#running.run();
      this.#client.ref();
      this.#running = null;
      call = await this.#wait(answer);
    }
  }

  async #wait(ask) {
    this.#waiting = true;
    const call = await ask();
    this.#waiting = false;
    return call;
  }

  // The function's own fault, after which nothing of this process can be trusted.
  async #die(title, thrown, status) {
    if (this.#ending) {
      return;
    }
    this.#ending = true;
    logging.failure(title, thrown, failures.logText);
    if (this.#waiting || this.#running?.answered) {
      process.exit(status); // no call is there whose answer this could be
    }
    this.#client.ref();
    await this.#client.failLast(this.#running?.id, failures.serialise(thrown));
    process.exit(status);
  }
}

function run() {
  streaming.install();
  logging.setUp();
  return new Process(process.env.AWS_LAMBDA_RUNTIME_API ?? '127.0.0.1:9001').run();
}

module.exports = { run, warm };
