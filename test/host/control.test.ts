// The daemon's sockets: who gets in, who is turned away and how it is explained, what is left on
// disk. Every server here listens in a folder of its own.

import * as v from 'valibot';
import {
  chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { connectionOver, method } from '../../engine/connection.ts';
import type { Connection, Role } from '../../engine/connection.ts';
import { FrameReader, encodeFrame } from '../../engine/frame.ts';
import type { Log } from '../../engine/log.ts';
import { ControlServer, WRITE_QUEUE_LIMIT } from '../../host/control.ts';
import type { ControlServerOptions } from '../../host/control.ts';

const folder = mkdtempSync(join(tmpdir(), `culvert-control-${process.pid}-`));
const servers: ControlServer[] = [];
const quiet: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
let sockets = 0;

test.after.each(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});
test.after(() => rmSync(folder, { recursive: true }));

const METHODS = {
  echo: method(v.string(), (text) => text),
  number: method(v.strictObject({ n: v.number() }), ({ n }) => n),
};

function options(change: Partial<ControlServerOptions> = {}): ControlServerOptions {
  sockets += 1;
  return {
    path: join(folder, `${sockets}`, 'control.sock'),
    mode: 0o600,
    roles: ['cli', 'cni'],
    methods: METHODS,
    version: '1.0.0',
    log: quiet,
    ...change,
  };
}

async function serve(change: Partial<ControlServerOptions> = {}): Promise<Served> {
  const chosen = options(change);
  const server = new ControlServer(chosen);
  servers.push(server);
  await server.listen();
  return { server, path: chosen.path };
}

interface Served { server: ControlServer; path: string }

function client(path: string, role: Role = 'cli'): Connection {
  return connectionOver(connect(path), { version: '1.0.0', role });
}

async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  return 'no failure';
}

/** Everything a raw connection is told until the server closes it. */
function told(socket: Socket): Promise<unknown[]> {
  return new Promise((resolve) => {
    const reader = new FrameReader();
    const messages: unknown[] = [];
    socket.on('data', (chunk) => messages.push(...reader.push(chunk)));
    socket.on('error', () => {});
    socket.on('close', () => resolve(messages));
  });
}

test('serves requests, and leaves nothing behind', async () => {
  const { server, path } = await serve();
  const connection = client(path);
  assert.equal(await connection.opened, { role: null, version: '1.0.0' });
  assert.is(await connection.request('echo', 'hello', v.string()), 'hello');
  assert.is(server.connections.size, 1);
  await server.close();
  assert.is((await connection.closed)?.message, 'closed by the other side: the daemon is stopping');
  assert.is(existsSync(path), false);
  assert.is(server.connections.size, 0);
});

test('makes folder and socket for the owner alone, or for a group', async () => {
  const own = await serve();
  assert.is(statSync(own.path).mode & 0o777, 0o600);
  assert.is(statSync(join(own.path, '..')).mode & 0o777, 0o700);
  const gid = process.getgid?.() ?? 0;
  const shared = await serve({ mode: 0o660, gid });
  assert.is(statSync(shared.path).mode & 0o777, 0o660);
  assert.is(statSync(shared.path).gid, gid);
  assert.is(statSync(join(shared.path, '..')).mode & 0o777, 0o755);
});

test('does not change a folder that is there', async () => {
  const { path } = await serve();
  chmodSync(join(path, '..'), 0o711);
  await serve({ path: join(path, '..', 'sync.sock') });
  assert.is(statSync(join(path, '..')).mode & 0o777, 0o711);
});

/** What a killed daemon leaves: a socket file nobody answers on. */
function leaveStaleSocket(path: string): void {
  const dying = `require('net').createServer().listen(${JSON.stringify(path)}, () => `
    + 'process.kill(process.pid, \'SIGKILL\'))';
  spawnSync(process.execPath, ['-e', dying]);
  assert.ok(existsSync(path));
}

test('replaces the socket of a daemon that died', async () => {
  const { server, path } = await serve();
  await server.close();
  leaveStaleSocket(path);
  await serve({ path });
  assert.is(await client(path).opened.then(({ version }) => version), '1.0.0');
});

test('refuses to replace a daemon that lives, or a file', async () => {
  const { path } = await serve();
  const second = new ControlServer(options({ path }));
  assert.match(await failure(second.listen()), /another daemon is serving it/);
  await client(path).opened;
  const file = join(folder, 'file.sock');
  writeFileSync(file, 'kept');
  assert.match(await failure(new ControlServer(options({ path: file })).listen()), /not a socket/);
  assert.ok(existsSync(file));
});

test('of two daemons starting at once on a stale socket one wins', async () => {
  const { server, path } = await serve();
  await server.close();
  leaveStaleSocket(path);
  const pair = [new ControlServer(options({ path })), new ControlServer(options({ path }))];
  servers.push(...pair);
  const results = await Promise.all(pair.map((server) => failure(server.listen())));
  assert.is(results.filter((result) => result === 'no failure').length, 1, results.join('\n'));
  await client(path).opened;
});

test('names the cause when it cannot listen', async () => {
  const path = join(folder, 'file-as-folder');
  writeFileSync(path, '');
  const server = new ControlServer(options({ path: join(path, 'x', 'control.sock') }));
  assert.match(await failure(server.listen()), /^mkdir .*ENOTDIR/);
});

test('serves its roles only', async () => {
  const { server, path } = await serve({ accept: ({ role }) => (role === 'cni' ? 'full' : null) });
  assert.is(
    await failure(client(path, 'sync').opened),
    'refused: role sync is not served here, only cli, cni',
  );
  assert.is(await failure(client(path, 'cni').opened), 'refused: full');
  await client(path, 'cli').opened;
  assert.is(server.counters.refused, 2);
});

test('asks the kernel for the uid, and believes nobody else', async () => {
  const seen: number[] = [];
  const foreign = await serve({ peerUid: (fd) => { seen.push(fd); return { uid: 4711 }; } });
  assert.is(
    await failure(client(foreign.path).opened),
    'closed by the other side: uid 4711 may not use this socket',
  );
  assert.ok((seen[0] ?? -1) > 2);
  assert.is(foreign.server.counters.foreignUid, 1);
  const known = await serve({ peerUid: () => ({ uid: 4711 }), uids: [4711] });
  await client(known.path).opened;
  const unsure = await serve({ peerUid: () => { throw new Error('EBADF'); } });
  assert.match(await failure(client(unsure.path).opened), /cannot be read: EBADF/);
});

test('holds to its connection limit', async () => {
  const { server, path } = await serve({ connectionLimit: 2 });
  const first = client(path);
  await Promise.all([first.opened, client(path).opened]);
  assert.match(await failure(client(path).opened), /too many connections, the limit is 2/);
  assert.is(server.counters.overLimit, 1);
  first.close();
  await retry(() => client(path).opened);
});

/** Tries until it works: the server learns of a closed connection a little later. */
async function retry(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

test('closes who never says hello', async () => {
  const { path } = await serve({ handshakeTimeoutMs: 20 });
  assert.equal(await told(connect(path)), [{ type: 'error', message: 'no hello in time' }]);
});

test('answers a bad frame, closes that connection and serves the others', async () => {
  const { server, path } = await serve();
  const other = client(path);
  await other.opened;
  const socket = connect(path);
  const messages = told(socket);
  socket.write(encodeFrame({ type: 'hello', protocol: 1, role: 'cli', version: '1' }));
  socket.write('GET / HTTP/1.1\r\n\r\n');
  assert.equal(await messages, [
    { type: 'welcome', protocol: 1, version: '1.0.0' },
    { type: 'error', message: 'bad frame (magic): starts with 0x47455420' },
  ]);
  assert.is(server.counters.badFrames, 1);
  assert.is(await other.request('echo', 'still here', v.string()), 'still here');
});

test('refuses bad parameters by field and goes on', async () => {
  const { server, path } = await serve();
  const connection = client(path);
  await connection.opened;
  assert.match(await failure(connection.request('number', { n: 'x' }, v.number())), /^number: n: /);
  assert.is(await connection.request('number', { n: 4 }, v.number()), 4);
  assert.is(server.counters.badFrames, 0);
});

test('cuts off who does not read', async () => {
  const { server, path } = await serve();
  const socket = connect(path);
  socket.pause();
  socket.on('error', () => {});
  socket.write(encodeFrame({ type: 'hello', protocol: 1, role: 'cli', version: '1' }));
  while (server.connections.size === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  const [connection] = server.connections;
  const text = 'x'.repeat(500_000);
  for (let sent = 0; sent < WRITE_QUEUE_LIMIT + 2_000_000; sent += text.length) {
    connection?.notify('event', text);
  }
  assert.ok((await connection?.closed) instanceof Error);
  assert.is(server.counters.slow, 1);
  socket.destroy();
});

test('stops although a client does not read', async () => {
  const { server, path } = await serve();
  const socket = connect(path);
  socket.pause();
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('connect', resolve));
  await server.close();
  assert.is(existsSync(path), false);
  socket.destroy();
});

test.run();
