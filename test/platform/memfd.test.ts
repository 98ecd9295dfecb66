// What we believe of a memfd that is mapped over pages of WebAssembly memory: every thread and
// instance sees the file, what lies outside traps as before, and a process that is killed leaves
// all that it had stored.

import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync, readSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd } from '../../ffi/file.ts';
import { createMemfd, fileSize, mapOver } from '../../ffi/memfd.ts';
import { addressOf } from '../../ffi/memory.ts';
import {
  accessors, makeMemory, mapFile, MAPPED_SIZE, MAPPED_START, PAGES, type WorkerTask,
} from './memfd-worker.ts';

const test = suite('platform/memfd');
const WORKER = new URL('./memfd-worker.js', import.meta.url);
const PAGE = 65536;

/** The word of the file that lies at an address of the memory. */
function wordInFile(fd: number, address: number): number {
  const bytes = Buffer.alloc(4);
  readSync(fd, bytes, 0, 4, address - MAPPED_START);
  return bytes.readUInt32LE(0);
}

/** What a thread found where it stored a value. */
function runThread(task: WorkerTask): Promise<number> {
  const worker = new Worker(WORKER, { workerData: task });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

function startProcess(fd: number, last: number): ChildProcess {
  return spawn(process.execPath, [fileURLToPath(WORKER), 'count', `${last}`], {
    stdio: ['ignore', 'pipe', 'inherit', fd],
  });
}

function ended(child: ChildProcess): Promise<[number | null, NodeJS.Signals | null]> {
  return new Promise((resolve) => child.once('exit', (code, signal) => resolve([code, signal])));
}

for (const where of ['main thread', 'worker thread']) {
  test(`a file mapped in the ${where} is seen by all threads and instances`, async () => {
    const memory = makeMemory();
    const early = accessors(memory);
    const view = new Uint8Array(memory.buffer);
    const address = MAPPED_START + PAGE + 8;
    early.store(address, 1);
    const fd = createMemfd('culvert-test', MAPPED_SIZE);
    const isMain = where === 'main thread';
    if (isMain) mapFile(memory, fd);
    const base = addressOf(view);
    const found = await runThread({ memory, fd: isMain ? -1 : fd, address, value: 0x1234 });
    assert.is(found, 0);
    assert.is(early.load(address), 0x1234);
    assert.is(accessors(memory).load(address), 0x1234);
    assert.is(wordInFile(fd, address), 0x1234);
    assert.is(view[address], 0x34);
    assert.is(addressOf(view), base);
    closeFd(fd);
    early.store(address, 7);
    assert.is(accessors(memory).load(address), 7);
  });
}

test('pages around the file are as before, and what is outside the memory traps', () => {
  const memory = makeMemory();
  const { load, store } = accessors(memory);
  const last = (PAGES * PAGE) - 4;
  const around = [0, MAPPED_START - 4, MAPPED_START + MAPPED_SIZE, last];
  for (const address of around) store(address, address + 1);
  const fd = createMemfd('culvert-test', MAPPED_SIZE);
  mapFile(memory, fd);
  assert.equal(around.map(load), around.map((address) => address + 1));
  for (const address of [last + 1, last + 4, 0x7fff_fffc, -4]) {
    assert.throws(() => load(address), /memory access out of bounds/);
    assert.throws(() => store(address, 1), /memory access out of bounds/);
  }
  assert.is(load(last), last + 1);
  closeFd(fd);
});

/** Memories of 64 MiB that together reach into the upper half of a 32-bit address space. */
const LARGE_PAGES = 1024;
const LARGE_COUNT = 32;

test('a file is mapped wherever a memory lies', () => {
  const fd = createMemfd('culvert-test', MAPPED_SIZE);
  const memories = Array.from({ length: LARGE_COUNT }, () =>
    new WebAssembly.Memory({ initial: LARGE_PAGES, maximum: LARGE_PAGES, shared: true }));
  memories.forEach((memory, number) => {
    mapFile(memory, fd);
    new Uint8Array(memory.buffer)[MAPPED_START] = number + 1;
    assert.is(wordInFile(fd, MAPPED_START), number + 1);
  });
  closeFd(fd);
});

test('two memories that map one file have the same bytes', () => {
  const fd = createMemfd('culvert-test', MAPPED_SIZE);
  const [one, other] = [makeMemory(), makeMemory()];
  mapFile(one, fd);
  mapFile(other, fd);
  accessors(one).store(MAPPED_START, 99);
  assert.is(accessors(other).load(MAPPED_START), 99);
  closeFd(fd);
});

test('a process that is killed leaves what it stored, and another goes on from there', async () => {
  const fd = createMemfd('culvert-test', MAPPED_SIZE);
  let before = 0;
  for (let round = 0; round < 3; round += 1) {
    const child = startProcess(fd, 0x7fff_ffff);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    do {
      await new Promise((resolve) => setTimeout(resolve, 20));
    } while (wordInFile(fd, MAPPED_START) <= before);
    child.kill('SIGKILL');
    assert.equal(await ended(child), [null, 'SIGKILL']);
    before = wordInFile(fd, MAPPED_START);
  }
  const child = startProcess(fd, before + 5);
  assert.equal(await ended(child), [0, null]);
  assert.is(wordInFile(fd, MAPPED_START), before + 5);
  closeFd(fd);
});

test('a memory that is let go takes its mapping along, the file stays', async () => {
  const fd = createMemfd('culvert-let-go', MAPPED_SIZE);
  const isMapped = (): boolean => readFileSync('/proc/self/maps', 'utf8').includes('let-go');
  await runThread({ memory: null, fd, address: MAPPED_START, value: 1 });
  for (let tries = 0; isMapped() && tries < 50; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.not(isMapped());
  assert.is(fileSize(fd), MAPPED_SIZE);
  closeFd(fd);
});

test('a mapping of part of a page, or of more than the file, is refused', () => {
  const memory = makeMemory();
  const fd = createMemfd('culvert-test', PAGE);
  const bad = [[1, PAGE], [0, 100], [0, 0]] as const;
  for (const [start, length] of bad) {
    assert.throws(() => mapOver(new Uint8Array(memory.buffer, start, length), fd), RangeError);
  }
  assert.throws(() => mapFile(memory, fd), /the file is smaller/);
  closeFd(fd);
});

test.run();
