// Anything that can be thrown, as Lambda's error object: errorType, errorMessage, trace.
'use strict';

const util = require('node:util');

const BODY_BYTES_MAX = 256 * 1024;

// An error of the runtime's own, with Lambda's name for it. of: the error that it stands for.
class RuntimeError extends Error {
  constructor(name, message, of) {
    super(message);
    this.name = name;
    if (of && of.stack) {
      this.stack = of.stack;
    }
  }
}

function looksLikeError(thrown) {
  return util.types.isNativeError(thrown) || (thrown && thrown.name && thrown.message && thrown.stack);
}

function textOf(thrown) {
  try {
    return String(thrown);
  } catch {
    return '<toString() failed>';
  }
}

function describe(thrown) {
  try {
    if (looksLikeError(thrown)) {
      const trace = String(thrown.stack).replace(/\x7F/g, '%7F').split('\n');
      return { errorType: String(thrown.name).replace(/\x7F/g, '%7F'), errorMessage: String(thrown.message), trace };
    }
  } catch {
    // its own getters threw: what is left is its text
  }
  return { errorType: typeof thrown, errorMessage: textOf(thrown), trace: [] };
}

// For the API. Cut where it would not fit into a header or an answer.
function serialise(thrown) {
  const known = describe(thrown);
  let body = JSON.stringify(known);
  if (Buffer.byteLength(body) > BODY_BYTES_MAX) {
    body = JSON.stringify({ ...known, errorMessage: known.errorMessage.slice(0, 65536), trace: [] });
  }
  return { type: known.errorType.replace(/[^\x21-\x7e]/g, '?').slice(0, 256), body };
}

// For the log: everything that the error carries, beside what describe() tells.
function forLog(thrown) {
  if (!looksLikeError(thrown)) {
    const { errorType, errorMessage, trace } = describe(thrown);
    return { errorType, errorMessage, trace };
  }
  const { errorType, errorMessage, trace } = describe(thrown);
  const more = {};
  for (const name of Object.getOwnPropertyNames(thrown)) {
    if (name !== 'stack' && name !== 'message' && name !== 'name') {
      more[name] = thrown[name];
    }
  }
  return { errorType, errorMessage, ...more, stack: trace };
}

function logText(thrown) {
  try {
    return JSON.stringify(forLog(thrown), (_, value) => (util.types.isNativeError(value) ? forLog(value) : value));
  } catch {
    return JSON.stringify(describe(thrown));
  }
}

module.exports = { RuntimeError, describe, logText, serialise };
