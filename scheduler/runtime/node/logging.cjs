// console as Lambda has it: each message one line of time, request id, level and text, or one JSON object.
//
// Written to the descriptor at once, so that the order of lines is that of the calls, whatever else writes there.
'use strict';

const fs = require('node:fs');
const util = require('node:util');

const LEVELS = { TRACE: 1, DEBUG: 2, INFO: 3, WARN: 4, ERROR: 5, FATAL: 6 };
const METHODS = { trace: 'TRACE', debug: 'DEBUG', log: 'INFO', info: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };

const current = { requestId: undefined };

function write(text) {
  let data = Buffer.from(text, 'utf8');
  while (data.length > 0) {
    try {
      data = data.subarray(fs.writeSync(1, data));
    } catch (error) {
      if (error.code === 'EAGAIN') {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // the reader is slow: so are we
      } else {
        return; // nobody reads any more
      }
    }
  }
}

function asText(level, values) {
  return `${new Date().toISOString()}\t${current.requestId}\t${level}\t${util.format(...values)}\n`;
}

function errorFields(error) {
  const trace = typeof error.stack === 'string' ? error.stack.split('\n') : [];
  return { errorType: error?.constructor?.name ?? 'UnknownError', errorMessage: error.message, stackTrace: trace };
}

function asJson(level, values) {
  const record = { timestamp: new Date().toISOString(), level, requestId: current.requestId };
  if (values.length === 1) {
    try {
      const replace = (_, value) => (value instanceof Error ? errorFields(value) : value);
      return `${JSON.stringify({ ...record, message: values[0] }, replace)}\n`;
    } catch {
      return `${JSON.stringify({ ...record, message: util.format(values[0]) })}\n`; // a circle, a BigInt
    }
  }
  const found = values.find((value) => value instanceof Error);
  return `${JSON.stringify({ ...record, message: util.format(...values), ...(found && errorFields(found)) })}\n`;
}

// After AWS_LAMBDA_LOG_FORMAT (JSON or text) and AWS_LAMBDA_LOG_LEVEL.
function setUp() {
  const format = process.env.AWS_LAMBDA_LOG_FORMAT?.toUpperCase() === 'JSON' ? asJson : asText;
  const least = LEVELS[process.env.AWS_LAMBDA_LOG_LEVEL?.toUpperCase()] ?? LEVELS.TRACE;
  for (const [name, level] of Object.entries(METHODS)) {
    console[name] = LEVELS[level] < least ? () => {} : (...values) => write(format(level, values));
  }
}

// A failure the runtime itself has to tell of.
function failure(title, thrown, logText) {
  if (process.env.AWS_LAMBDA_LOG_FORMAT?.toUpperCase() === 'JSON') {
    console.error(thrown);
  } else {
    console.error(`${title} \t${logText(thrown)}`);
  }
}

module.exports = { current, failure, setUp };
