// A call before there are calls: everything that the first one needs is loaded and compiled then. One process is both sides, over
// its own loopback; nothing of it is left but what V8 and Node have learnt.
'use strict';

const net = require('node:net');
const path = require('node:path');
const { Client } = require('./client.cjs');
const { constants } = require('./context.cjs');
const { Invocation } = require('./invocation.cjs');
const { find } = require('./loading.cjs');

const CALL = '{"rehearsal":true}';
const HEAD =
  'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: 00000000-0000-0000-0000-000000000000\r\n' +
  'Lambda-Runtime-Deadline-Ms: 4102444800000\r\nLambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:local:000000000000:function:x\r\n';
const NEXT = `${HEAD}Content-Length: ${CALL.length}\r\n\r\n${CALL}`;
const ARRIVED = 'HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n';
const PATIENCE_MS = 1000;

function listen() {
  return new Promise((done, fail) => {
    const server = net.createServer((socket) => {
      socket.on('data', (piece) => socket.write(piece.toString('latin1').startsWith('GET') ? NEXT : ARRIVED + NEXT));
      socket.on('error', () => {});
    });
    server.on('error', fail);
    server.listen(0, '127.0.0.1', () => done(server));
  });
}

async function calls(client) {
  const fixed = constants();
  let call = await client.next();
  for (const name of ['warm.handler', 'warm-cjs.handler']) {
    const handler = await find(path.join(__dirname, 'rehearsed'), name);
    const invocation = new (Invocation.kindOf(handler))(client, handler, fixed, call);
    const answer = await invocation.run();
    call = await answer();
  }
}

// Never fails: where it cannot be, the first call is what it would have been without.
async function rehearse() {
  let server;
  let client;
  let timer;
  try {
    server = await listen();
    client = new Client(`127.0.0.1:${server.address().port}`, () => {});
    const late = new Promise((done) => {
      timer = setTimeout(done, PATIENCE_MS);
    });
    await Promise.race([calls(client), late]);
  } catch {
    // no loopback, say
  }
  clearTimeout(timer);
  client?.close();
  await new Promise((done) => (server ? server.close(done) : done()));
}

module.exports = { rehearse };
