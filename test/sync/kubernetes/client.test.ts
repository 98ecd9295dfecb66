// Requests and streams against real sockets: credentials, certificates that change, deadlines,
// answers that are refused, cut, silent or too long, and connections that were closed while idle.

import { readFileSync, writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Access, loadAccess } from '../../../sync/kubernetes/access.ts';
import { ApiClient, ApiError } from '../../../sync/kubernetes/client.ts';
import type { ClientOptions } from '../../../sync/kubernetes/client.ts';
import { READER_RULES, TestApiServer } from '../../support/api-server/server.ts';
import { ROOT } from '../../support/source.ts';

const test = suite('client');
const SIGNAL = new AbortController().signal;
let cleanups: (() => unknown)[] = [];
test.after.each(async () => {
  const rest = cleanups.reverse();
  cleanups = [];
  for (const cleanup of rest) await cleanup();
});

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function listen(server: Server | ReturnType<typeof createTcpServer>): Promise<string> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  cleanups.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function clientFor(server: string, options: ClientOptions = {}, token = 't'): ApiClient {
  const secrets = { token: { text: token }, ca: null, certificate: null, key: null };
  const client = new ApiClient(
    new Access({ server, serverName: null, secrets, origin: 'test' }), options);
  cleanups.push(() => client.close());
  return client;
}

async function serve(handler: Handler, options: ClientOptions = {}): Promise<ApiClient> {
  return clientFor(await listen(createServer(handler)), options);
}

async function failure(work: Promise<unknown>): Promise<ApiError> {
  const error = await work.then(() => null, (reason: unknown) => reason);
  assert.instance(error, ApiError);
  return error as ApiError;
}

async function drain(client: ApiClient, silenceTimeoutMs = 1000): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of client.stream('/s', {}, SIGNAL, { silenceTimeoutMs })) parts.push(part);
  return Buffer.concat(parts).toString();
}

test('a request says who asks, for what, and takes JSON', async () => {
  const seen: string[] = [];
  const client = await serve((request, response) => {
    const { url, method, headers } = request;
    seen.push(`${method} ${url} ${headers.authorization} ${headers.accept} `
      + `${headers['user-agent']} ${headers['content-type'] ?? '-'}`);
    request.resume().on('end', () => response.end('{"a":1}'));
  }, { version: '1.2' });
  assert.equal(await client.get('/api/v1/x', { limit: 5, q: 'a b&c', no: undefined }, SIGNAL),
    { a: 1 });
  await client.patch('/y', { a: 'ü' }, 'application/merge-patch+json', SIGNAL);
  assert.equal(seen, [
    'GET /api/v1/x?limit=5&q=a+b%26c Bearer t application/json culvert/1.2 -',
    'PATCH /y Bearer t application/json culvert/1.2 application/merge-patch+json',
  ]);
});

test('a refusal says what the Status says, and when to come again', async () => {
  const answers: [number, Record<string, string>, string][] = [
    [403, {}, '{"kind":"Status","reason":"Forbidden","message":"no","code":403}'],
    [429, { 'retry-after': '3' }, '{"reason":"TooManyRequests","message":"later"}'],
    [503, {}, '{"reason":"X","details":{"retryAfterSeconds":2}}'],
    [404, { 'content-type': 'text/plain' }, '404 page not found\n'],
    [500, {}, ''],
  ];
  const client = await serve((_, response) => {
    const [status, headers, text] = answers.shift() ?? [200, {}, ''];
    response.writeHead(status, headers).end(text);
  });
  const told: unknown[] = [];
  for (let i = 0; i < 5; i += 1) {
    const error = await failure(i % 2 === 0 ? client.get('/', {}, SIGNAL) : drain(client));
    told.push([error.status, error.reason, error.message, error.retryAfterMs]);
  }
  assert.equal(told, [
    [403, 'Forbidden', 'no', null], [429, 'TooManyRequests', 'later', 3000],
    [503, 'X', '{"reason":"X","details":{"retryAfterSeconds":2}}', 2000],
    [404, 'Status404', '404 page not found', null], [500, 'Status500', 'status 500', null],
  ]);
});

test('each deadline has its own words', async () => {
  const mute = createTcpServer(() => {});
  const held = clientFor((await listen(mute)).replace('http:', 'https:'),
    { connectTimeoutMs: 100, headerTimeoutMs: 100 });
  assert.match((await failure(held.get('/', {}, SIGNAL))).message, /no connection in 100 ms/);
  const silent = clientFor(await listen(createTcpServer(() => {})), { headerTimeoutMs: 100 });
  const error = await failure(silent.get('/', {}, SIGNAL));
  assert.equal([error.status, error.reason], [0, 'Timeout']);
  assert.match(error.message, /no answer in 100 ms/);
  const stuck = await serve((_, response) => { response.write('{"a":'); });
  assert.is((await failure(drain(stuck, 100))).reason, 'Silent');
  const refused = await failure(clientFor('http://127.0.0.1:1').get('/', {}, SIGNAL));
  assert.is(refused.reason, 'Unreachable');
  assert.match(refused.message, /127\.0\.0\.1:1: .*ECONNREFUSED/);
});

test('a stream lives while bytes come, and a cut one is an error', async () => {
  const client = await serve((_, response) => {
    let count = 0;
    const timer = setInterval(() => {
      response.write('x');
      count += 1;
      if (count === 10) {
        clearInterval(timer);
        response.end();
      }
    }, 40);
  });
  assert.is(await drain(client, 200), 'x'.repeat(10));
  const cut = await serve((_, response) => {
    response.write('xx');
    setTimeout(() => response.destroy(), 20);
  });
  assert.is((await failure(drain(cut))).reason, 'Cut');
});

test('an answer that is held has a limit, and must be JSON', async () => {
  const large = await serve((_, response) => { response.end(Buffer.alloc(9 << 20, 'x')); });
  assert.is((await failure(large.get('/', {}, SIGNAL))).reason, 'TooLong');
  const page = await serve((_, response) => { response.end('<html>'); });
  assert.is((await failure(page.get('/', {}, SIGNAL))).reason, 'NotJson');
});

test('a connection closed while idle is no error, and connections are used again', async () => {
  const sockets = new Set<Socket>();
  const server = createServer((_, response) => { response.end('{}'); });
  server.on('connection', (socket: Socket) => sockets.add(socket));
  const client = clientFor(await listen(server));
  for (let i = 0; i < 5; i += 1) await client.get('/', {}, SIGNAL);
  assert.is(sockets.size, 1);
  server.removeAllListeners('request');
  server.on('request', (request, response) => {
    // The first connection ends instead of an answer, as if it had been closed before.
    if (request.socket === [...sockets][0]) request.socket.destroy();
    else response.end('{"new":true}');
  });
  assert.equal(await client.get('/', {}, SIGNAL), { new: true });
  assert.is(sockets.size, 2);
});

test('an abort ends a request and a stream at once', async () => {
  const client = await serve((_, response) => { response.write('x'); });
  const abort = new AbortController();
  setTimeout(() => abort.abort(), 50);
  const work = (async () => {
    for await (const chunk of client.stream('/', {}, abort.signal)) void chunk;
  })();
  await work.then(() => assert.unreachable(), () => {});
});

test('TLS: a client certificate says who we are', async () => {
  const server = new TestApiServer();
  await server.start();
  cleanups.push(() => server.close());
  server.grant('certified', READER_RULES);
  const access = (certificate: boolean): Access =>
    loadAccess({ environment: {}, kubeconfig: server.kubeconfig({ certificate, token: 'no' }) });
  const client = new ApiClient(access(true));
  cleanups.push(() => client.close());
  const nodes = await client.get('/api/v1/nodes', { limit: 1 }, SIGNAL);
  assert.is((nodes as { kind: string }).kind, 'NodeList');
  const stranger = new ApiClient(access(false));
  cleanups.push(() => stranger.close());
  const refusal = await failure(stranger.get('/api/v1/nodes', { limit: 1 }, SIGNAL));
  assert.is(refusal.status, 401);
});

test('TLS: the CA is checked, and a new CA or token counts at the next request', async () => {
  const server = new TestApiServer();
  await server.start();
  cleanups.push(() => server.close());
  server.grant('engine', READER_RULES);
  const folder = mkdtempSync(join(tmpdir(), `culvert-client-${process.pid}-`));
  cleanups.push(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'token'), 'wrong');
  const pem = (name: string): string => readFileSync(
    join(ROOT, 'test', 'golden', 'tls', name), 'utf8');
  writeFileSync(join(folder, 'ca.crt'), pem('other-ca.pem'));
  const access = loadAccess({ environment: {}, apiServer: server.url, serviceAccount: folder });
  const client = new ApiClient(access);
  cleanups.push(() => client.close());
  const ask = (): Promise<unknown> => client.get('/api/v1/nodes', { limit: 1 }, SIGNAL);
  assert.match((await failure(ask())).message, /certificate/);
  writeFileSync(join(folder, 'ca.crt'), server.ca);
  assert.is((await failure(ask())).status, 401);
  writeFileSync(join(folder, 'token'), server.token);
  assert.is((await ask() as { kind: string }).kind, 'NodeList');
  await server.kill();
  await server.start({ certificates: 'other' });
  assert.is((await failure(ask())).reason, 'Unreachable');
  writeFileSync(join(folder, 'ca.crt'), server.ca);
  await ask();
  // A damaged file is an error of the request, not the end of the program.
  writeFileSync(join(folder, 'ca.crt'), '-----BEGIN CERTIFICATE-----\nx\n');
  assert.instance(await failure(ask()), ApiError);
  writeFileSync(join(folder, 'token'), 'a\nb');
  assert.instance(await failure(ask()), ApiError);
});

test.run();
