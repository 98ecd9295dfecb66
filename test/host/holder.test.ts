// The holder as a process: it keeps what it was given, whoever dies, and ends when it should.

import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd, drainEventFd, openEventFd, signalEventFd } from '../../ffi/file.ts';
import { createMemfd, fileSize } from '../../ffi/memfd.ts';
import { HolderClient } from '../../host/holder-client.ts';
import { until } from '../support/until.ts';
import { encodeMessage, HOLD_PUT, HOLD_REFUSED, MESSAGE_SIZE } from '../../host/holder-protocol.ts';

const test = suite('host/holder');
const PROCESS = fileURLToPath(new URL('../../host/holder-process.js', import.meta.url));
const AWAY_MS = 10_000;

interface Bed {
  path: string;
  holder: ChildProcess;
  client: HolderClient;
}

async function connected(path: string): Promise<HolderClient> {
  await until('the holder', () => {
    const client = HolderClient.find(path);
    client?.close();
    return client !== null;
  });
  return HolderClient.find(path) as HolderClient;
}

function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(child.exitCode);
  return new Promise((resolve) => child.once('exit', (code) => resolve(code)));
}

/** Runs a body beside a holder of its own, which ends with the test. */
function withHolder(name: string, body: (bed: Bed) => Promise<void>): void {
  test(name, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'culvert-holder-'));
    const path = join(folder, 'holder.sock');
    const holder = spawn(process.execPath, [PROCESS, path, `${AWAY_MS}`], { stdio: 'inherit' });
    try {
      const client = await connected(path);
      await body({ path, holder, client });
    } finally {
      holder.kill('SIGKILL');
      await ended(holder);
      rmSync(folder, { recursive: true });
    }
  });
}

const names = (held: Map<string, number>): string[] => [...held.keys()].sort();

function closeAll(held: Map<string, number>): void {
  for (const fd of held.values()) closeFd(fd);
}

withHolder('what is put is given back to the next, and to the one after', async (bed) => {
  const { path, client } = bed;
  const event = openEventFd();
  const memfd = createMemfd('culvert-test', 65536);
  client.put('flows', memfd);
  client.put('tun.a', event);
  client.close();
  closeFd(memfd);
  signalEventFd(event);
  closeFd(event);
  for (let round = 0; round < 2; round += 1) {
    const next = HolderClient.find(path);
    const held = next?.list() ?? new Map<string, number>();
    assert.equal(names(held), ['flows', 'tun.a']);
    assert.is(fileSize(held.get('flows') ?? -1), 65536);
    assert.is(drainEventFd(held.get('tun.a') ?? -1), round === 0);
    closeAll(held);
    next?.close();
  }
});

withHolder('putting and dropping may be repeated; the last one counts', async ({ client }) => {
  const first = openEventFd();
  const second = openEventFd();
  for (const fd of [first, first, second, second]) client.put('a', fd);
  signalEventFd(second);
  const held = client.list();
  assert.equal(names(held), ['a']);
  assert.ok(drainEventFd(held.get('a') ?? -1));
  for (let round = 0; round < 2; round += 1) client.drop('a');
  assert.is(client.list().size, 0);
  closeAll(held);
  closeFd(first);
  closeFd(second);
});

withHolder('hundreds of descriptors are given back', async ({ client, holder }) => {
  const event = openEventFd();
  const count = 550;
  for (let number = 0; number < count; number += 1) client.put(`pod.${number}`, event);
  const startMs = performance.now();
  const held = client.list();
  const elapsedMs = performance.now() - startMs;
  assert.is(held.size, count);
  closeAll(held);
  closeFd(event);
  const status = readFileSync(`/proc/${holder.pid}/status`, 'utf8');
  const field = (name: string): string => new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? '';
  console.log(`${count} descriptors in ${elapsedMs.toFixed(1)} ms; holder: `
    + `${field('VmRSS')} KiB resident, of which ${field('RssAnon')} its own`);
});

withHolder('the socket is our user\'s alone, and garbage is cut off', async ({ path, client }) => {
  assert.is(statSync(path).mode & 0o777, 0o600);
  const event = openEventFd();
  client.put('a', event);
  closeFd(event);
  const bad = [
    Buffer.from('GET / HTTP/1.0\r\n\r\n'), Buffer.alloc(MESSAGE_SIZE), Buffer.alloc(4096, 0xff),
    encodeMessage(99), encodeMessage(HOLD_PUT, 'without a descriptor'),
  ];
  for (const bytes of bad) {
    const socket = connect(path, () => socket.write(bytes));
    const answer: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => answer.push(chunk));
    socket.on('error', () => {});
    await new Promise((resolve) => socket.once('close', resolve));
    const text = Buffer.concat(answer);
    assert.ok(text.length === 0 || text[5] === HOLD_REFUSED);
  }
  const held = client.list();
  assert.equal(names(held), ['a']);
  closeAll(held);
});

withHolder('it keeps no descriptor that it does not need', async ({ client, holder }) => {
  const count = (): number => readdirSync(`/proc/${holder.pid}/fd`).length;
  client.drop('a');
  const before = count();
  const event = openEventFd();
  for (let round = 0; round < 20; round += 1) client.put('a', event);
  closeAll(client.list());
  client.drop('a');
  assert.is(count(), before);
  closeFd(event);
});

withHolder('a second holder for the same socket ends, the first goes on', async (bed) => {
  const { path, client } = bed;
  const second = spawn(process.execPath, [PROCESS, path, '1000'], { stdio: 'ignore' });
  assert.is(await ended(second), 1);
  assert.is(client.list().size, 0);
});

withHolder('told to stop, it closes everything and takes its socket away', async (bed) => {
  const { path, client, holder } = bed;
  client.stop();
  assert.is(await ended(holder), 0);
  assert.not(existsSync(path));
  assert.is(HolderClient.find(path), null);
});

withHolder('without a daemon it ends; with one it stays', async ({ client, holder }) => {
  const watching = HolderClient.find(client.path);
  await watching?.watch(150, () => {});
  await new Promise((resolve) => setTimeout(resolve, 400));
  assert.is(holder.exitCode, null);
  const startMs = performance.now();
  watching?.close();
  assert.is(await ended(holder), 0);
  assert.ok(performance.now() - startMs > 100);
});

withHolder('while it has a pod\'s device it waits for ever', async ({ client, holder }) => {
  const event = openEventFd();
  client.put('pod.1', event);
  closeFd(event);
  await client.watch(0, () => {});
  client.close();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.is(holder.exitCode, null);
});

withHolder('its death is noticed, and asking it then is an error', async ({ client, holder }) => {
  let isLost = false;
  await client.watch(AWAY_MS, () => { isLost = true; });
  holder.kill('SIGKILL');
  await until('the loss', () => isLost);
  assert.throws(() => client.drop('a'), /the holder/);
});

withHolder('one that does not answer is an error', async ({ path, client, holder }) => {
  holder.kill('SIGSTOP');
  await HolderClient.find(path)?.watch(AWAY_MS, () => {}).then(
    () => assert.unreachable(), (error: Error) => assert.match(error.message, /not answer/));
  assert.throws(() => client.drop('a'), /does not answer/);
});

test('one that the daemon starts outlives its starter', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-holder-'));
  const path = join(folder, 'holder.sock');
  const client = await HolderClient.start(path, AWAY_MS);
  const again = HolderClient.find(path);
  assert.is(again?.list().size, 0);
  again?.close();
  client.stop();
  await until('its end', () => !existsSync(path));
  rmSync(folder, { recursive: true });
});

test.run();
