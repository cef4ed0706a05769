// The start before a function is known: everything is loaded, then the process waits, blocked, for the environment and the
// directory it is to be in. What it may not leave open while it waits: a connection, a timer, a thread.
'use strict';

const fs = require('node:fs');
const { Module } = require('node:module');
const main = require('./main.cjs');
const { rehearse } = require('./rehearsal.cjs');

const HEAD_BYTES = 4;
const FRAME_BYTES_MAX = 1024 * 1024;

function read(fd, bytes) {
  const data = Buffer.allocUnsafe(bytes);
  for (let at = 0; at < bytes;) {
    const got = fs.readSync(fd, data, at, bytes - at, null);
    if (got === 0) {
      process.exit(0); // nobody is left who could want this process
    }
    at += got;
  }
  return data;
}

// The frame: u32 length, then texts that end with NUL: KEY=VALUE, or the directory, which begins with a slash.
function become(frame) {
  for (const name of Object.keys(process.env)) {
    delete process.env[name];
  }
  for (const text of frame.toString('utf8').split('\0')) {
    const equals = text.indexOf('=');
    if (text.startsWith('/')) {
      process.chdir(text);
    } else if (equals > 0) {
      process.env[text.slice(0, equals)] = text.slice(equals + 1);
    }
  }
  Module._initPaths(); // NODE_PATH is read when Node starts
}

async function start() {
  main.warm();
  await rehearse();
  const fd = Number(process.env._SCHEDULER_PRESTART_FD);
  const bytes = read(fd, HEAD_BYTES).readUInt32LE(0);
  if (bytes > FRAME_BYTES_MAX) {
    throw new RangeError(`a frame of ${bytes} bytes, the limit is ${FRAME_BYTES_MAX}`);
  }
  become(read(fd, bytes));
  fs.closeSync(fd);
  await main.run();
}

start();
