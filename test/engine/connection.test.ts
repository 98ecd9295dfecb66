// Two connections back to back, without a socket: handshake, requests, refusals, broken protocol.

import * as v from 'valibot';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Connection, RequestError, method } from '../../engine/connection.ts';
import type { ConnectionOptions } from '../../engine/connection.ts';
import { encodeFrame } from '../../engine/frame.ts';

const METHODS = {
  add: method(v.strictObject({ a: v.number(), b: v.number() }), ({ a, b }) => a + b),
  slow: method(v.null(), () => Promise.resolve('later')),
  refuse: method(v.null(), () => { throw new RequestError('not-found', 'no such thing'); }),
  fault: method(v.null(), () => { throw new Error('broken'); }),
  huge: method(v.null(), () => 'x'.repeat(2_000_000)),
  watch: method(v.null(), (_, connection) => {
    for (let index = 0; index < 3; index += 1) connection.notify('event', { index });
  }),
};

interface Pair { client: Connection; server: Connection; ended: string[] }

/** A client and a server whose bytes cross in microtasks. */
function pair(
  server: Partial<ConnectionOptions> = {}, client: Partial<ConnectionOptions> = {},
): Pair {
  const ended: string[] = [];
  const made: Pair = {
    ended,
    server: new Connection({
      version: '1.0.0',
      methods: METHODS,
      send: (bytes) => { queueMicrotask(() => made.client.receive(bytes)); return true; },
      end: () => ended.push('server'),
      ...server,
    }),
    client: new Connection({
      version: '1.0.1',
      role: 'cli',
      send: (bytes) => { queueMicrotask(() => made.server.receive(bytes)); return true; },
      end: () => ended.push('client'),
      ...client,
    }),
  };
  return made;
}

async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    const code = error instanceof RequestError ? `${error.code}: ` : '';
    return code + (error instanceof Error ? error.message : String(error));
  }
  return 'no failure';
}

test('says hello, and each side learns who the other is', async () => {
  const { client, server } = pair();
  assert.equal(await client.opened, { role: null, version: '1.0.0' });
  assert.equal(server.party, { role: 'cli', version: '1.0.1' });
});

test('answers by id, in whatever order', async () => {
  const { client } = pair();
  await client.opened;
  const answers = await Promise.all([
    client.request('slow', null, v.string()),
    client.request('add', { a: 1, b: 2 }, v.number()),
    client.request('add', { a: 3, b: 4 }, v.number()),
  ]);
  assert.equal(answers, ['later', 3, 7]);
});

test('streams notifications', async () => {
  const seen: number[] = [];
  const event = method(v.strictObject({ index: v.number() }), ({ index }) => { seen.push(index); });
  const { client } = pair({}, { methods: { event } });
  await client.opened;
  await client.request('watch', null, v.null());
  assert.equal(seen, [0, 1, 2]);
});

test('refuses one request and lives on', async () => {
  const faults: string[] = [];
  const { client } = pair({ onHandlerError: (name) => faults.push(name) });
  await client.opened;
  const ask = (name: string, params: unknown = null) =>
    failure(client.request(name, params, v.unknown()));
  assert.is(await ask('nothing'), 'unknown-method: no method nothing');
  assert.is(await ask('toString'), 'unknown-method: no method toString');
  assert.is(await ask('refuse'), 'not-found: no such thing');
  assert.is(await ask('fault'), 'failed: broken');
  assert.match(await ask('huge'), /^too-large: bad frame \(length\)/);
  assert.match(await ask('add', { a: 1, b: 'x' }), /^invalid: add: b: .*Expected number/);
  assert.match(await ask('add', { a: 1, b: 2, c: 3 }), /^invalid: add: c: /);
  assert.match(await ask('add', 'x'.repeat(2_000_000)), /bad frame \(length\)/);
  assert.match(await failure(client.request('add', { a: 1, b: 2 }, v.string())), /^answer to add/);
  assert.is(await client.request('add', { a: 1, b: 2 }, v.number()), 3);
  assert.equal(faults, ['fault']);
});

test('tells a client it does not want why', async () => {
  const { client, server, ended } = pair({ accept: ({ role }) => `no ${role} here` });
  assert.is(await failure(client.opened), 'refused: no cli here');
  assert.is((await server.closed)?.message, 'no cli here');
  assert.equal(ended.sort(), ['client', 'server']);
});

test('explains another protocol number', async () => {
  const { server } = pair();
  const sent: Uint8Array[] = [];
  const other = new Connection({
    version: '1', send: (bytes) => { sent.push(bytes); return true; }, end: () => {},
  });
  other.receive(encodeFrame({ type: 'hello', protocol: 9, role: 'operator', colour: 'red' }));
  assert.match((await other.closed)?.message ?? '', /speaks protocol 9, the other 1/);
  assert.is(sent.length, 1);
  server.close();
});

const BROKEN: [string, unknown[], RegExp][] = [
  ['request first', [{ type: 'request', id: 1, method: 'a', params: 0 }], /unexpected request/],
  ['no message', [5], /message: /],
  ['unknown type', [{ type: 'shout' }], /message: type: /],
  ['unknown role', [{ type: 'hello', protocol: 1, role: 'x', version: '' }], /hello: role: /],
  ['field too many', [hello(), { type: 'notify', method: 'a', params: 1, x: 1 }], /message: x: /],
  ['second hello', [hello(), hello()], /unexpected hello/],
  ['unasked answer', [hello(), { type: 'response', id: 4, result: 1 }], /unknown id 4/],
  ['bad notification', [hello(), { type: 'notify', method: 'add', params: { a: 1 } }], /add: b: /],
];

function hello(): object {
  return { type: 'hello', protocol: 1, role: 'cli', version: '1' };
}

for (const [name, messages, reason] of BROKEN) {
  test(`closes on a broken protocol: ${name}`, async () => {
    const faults: string[] = [];
    let ends = 0;
    const server = new Connection({
      version: '1', methods: METHODS, send: () => true, end: () => { ends += 1; },
      onFault: (error) => faults.push(error.message),
    });
    for (const message of messages) server.receive(encodeFrame(message));
    assert.match((await server.closed)?.message ?? '', reason);
    assert.is(ends, 1);
    assert.is(faults.length, 1);
    server.receive(encodeFrame(hello()));
    assert.is(server.isOpen, false);
  });
}

test('fails what waits when the connection ends', async () => {
  const { client, server } = pair();
  await client.opened;
  const waiting = failure(client.request('slow', null, v.string()));
  server.close('stopping');
  assert.is(await waiting, 'closed by the other side: stopping');
  assert.is((await client.closed)?.message, 'closed by the other side: stopping');
  assert.is(await server.closed, null);
  assert.match(await failure(client.request('slow', null, v.string())), /not open/);
  assert.is(client.notify('event', null), false);
});

test.run();
