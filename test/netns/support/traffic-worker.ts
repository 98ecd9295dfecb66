// The thread of traffic.ts.

import { createCipheriv, createHash, type Cipher, type Hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { Namespace } from '../../../ffi/netns.ts';
import { TrainReceiver, sendTrain } from './traffic-trains.ts';
import { URGENT_BYTE, sendUrgent } from './traffic-urgent.ts';
import {
  TRAFFIC_PORT, type KernelCounters, type StreamAnswer, type TrafficRequest,
} from './traffic.ts';

const CHUNK_BYTES = 256 * 1024;
const DIGEST_BYTES = 32;
/** Parts of a stream with pauses. */
const BURSTS = 8;
const BURST_BYTES = 30_000;
const BURST_PAUSE_MS = 20;
const ZEROS = new Uint8Array(CHUNK_BYTES);

/** Bytes that never repeat: AES in counter mode, SP 800-38A section 6.5. */
function keystream(): Cipher {
  return createCipheriv('aes-128-ctr', Buffer.alloc(16, 7), Buffer.alloc(16));
}

/** Writes `bytes` of the keystream and then their digest, as fast as the socket takes them. */
function pour(socket: Socket, bytes: number): void {
  const stream = keystream();
  const hash = createHash('sha256');
  let left = bytes;
  const push = (): void => {
    while (left > 0) {
      const chunk = stream.update(ZEROS.subarray(0, Math.min(left, CHUNK_BYTES)));
      hash.update(chunk);
      left -= chunk.length;
      if (!socket.write(chunk)) {
        socket.once('drain', push);
        return;
      }
    }
    socket.end(hash.digest());
  };
  push();
}

/** Takes what pour() writes, and the time. */
class Basin {
  readonly #hash: Hash = createHash('sha256');
  readonly #bytes: number;
  readonly #digest: Buffer[] = [];
  readonly #startMs = performance.now();
  #lastMs = this.#startMs;
  #received = 0;
  #longestPauseMs = 0;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  take(chunk: Buffer): void {
    const now = performance.now();
    this.#longestPauseMs = Math.max(this.#longestPauseMs, now - this.#lastMs);
    this.#lastMs = now;
    const data = chunk.subarray(0, this.#bytes - this.#received);
    this.#hash.update(data);
    this.#received += data.length;
    if (data.length < chunk.length) this.#digest.push(chunk.subarray(data.length));
  }

  answer(): StreamAnswer {
    const digest = Buffer.concat(this.#digest);
    const same = digest.length === DIGEST_BYTES && digest.equals(this.#hash.digest());
    return {
      bytes: this.#received, same, elapsedMs: performance.now() - this.#startMs,
      longestPauseMs: this.#longestPauseMs,
    };
  }
}

/** Hashes all that comes but urgent bytes, and answers with the digest. */
function hashQuietly(socket: Socket, first: Buffer): void {
  const hash = createHash('sha256');
  const take = (chunk: Buffer): void => {
    hash.update(chunk.filter((byte) => byte !== URGENT_BYTE));
  };
  take(first);
  socket.on('data', take);
  socket.on('end', () => socket.end(hash.digest('hex')));
}

/** The first line says `send N`, `fetch N` or `hash`. */
function serveStream(socket: Socket): void {
  let basin: Basin | null = null;
  let isFetch = false;
  let isHash = false;
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: Buffer) => {
    if (isFetch || isHash) return;
    if (basin !== null) {
      basin.take(chunk);
      return;
    }
    const end = chunk.indexOf('\n');
    const [verb, bytes] = chunk.subarray(0, end).toString().split(' ');
    isFetch = verb === 'fetch';
    isHash = verb === 'hash';
    if (isHash) {
      hashQuietly(socket, chunk.subarray(end + 1));
      return;
    }
    if (isFetch) {
      pour(socket, Number(bytes));
      return;
    }
    basin = new Basin(Number(bytes));
    basin.take(chunk.subarray(end + 1));
  });
  socket.on('end', () => {
    if (basin !== null) socket.end(JSON.stringify(basin.answer()));
  });
}

/** One stream, as the client. */
function stream(
  verb: 'send' | 'fetch', address: string, port: number, bytes: number, timeoutMs: number,
): Promise<StreamAnswer> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port, allowHalfOpen: true });
    const basin = new Basin(bytes);
    let answer = '';
    const timer = setTimeout(() => {
      const { bytes: received } = basin.answer();
      socket.destroy(new Error(`not done in time; ${received} bytes received`));
    }, timeoutMs);
    socket.on('connect', () => {
      socket.write(`${verb} ${bytes}\n`);
      if (verb === 'send') pour(socket, bytes);
    });
    socket.on('data', (chunk: Buffer) => {
      if (verb === 'fetch') basin.take(chunk);
      else answer += chunk.toString();
    });
    socket.on('end', () => {
      clearTimeout(timer);
      socket.end();
      if (verb === 'fetch') resolve(basin.answer());
      else if (answer === '') reject(new Error('closed without an answer'));
      else resolve(JSON.parse(answer) as StreamAnswer);
    });
    socket.on('error', reject);
    socket.on('close', () => clearTimeout(timer));
  });
}

/** Parts with a pause behind each, so that each ends with PSH. */
function bursts(address: string): Promise<boolean> {
  const noise = keystream().update(ZEROS).map((byte) => byte === URGENT_BYTE ? 0 : byte);
  const data = Buffer.from(noise.subarray(0, BURSTS * BURST_BYTES));
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port: TRAFFIC_PORT, allowHalfOpen: true });
    let answer = '';
    socket.setNoDelay(true);
    socket.on('connect', () => {
      socket.write('hash\n');
      let sent = 0;
      const timer = setInterval(() => {
        if (sent === BURSTS) {
          clearInterval(timer);
          socket.end();
          return;
        }
        socket.write(data.subarray(sent * BURST_BYTES, (sent + 1) * BURST_BYTES));
        sent += 1;
      }, BURST_PAUSE_MS);
    });
    socket.on('data', (chunk: Buffer) => { answer += chunk.toString(); });
    socket.on('end', () => resolve(answer === createHash('sha256').update(data).digest('hex')));
    socket.on('error', reject);
  });
}

function urgent(address: string): boolean {
  const [answer, data] = sendUrgent(address, TRAFFIC_PORT, 'hash\n');
  return answer === createHash('sha256').update(data).digest('hex');
}

/** Names and values are in lines of their own in snmp, side by side in snmp6. */
function readCounters(): KernelCounters {
  const counters: KernelCounters = {};
  const lines = readFileSync('/proc/thread-self/net/snmp', 'utf8').trim().split('\n');
  for (let at = 0; at + 1 < lines.length; at += 2) {
    const [group = '', ...names] = (lines[at] ?? '').split(' ');
    const [, ...values] = (lines[at + 1] ?? '').split(' ');
    for (const [index, name] of names.entries()) {
      counters[`${group.replace(':', '')}${name}`] = Number(values[index]);
    }
  }
  for (const line of readFileSync('/proc/thread-self/net/snmp6', 'utf8').trim().split('\n')) {
    const [name = '', value] = line.split(/\s+/);
    counters[name] = Number(value);
  }
  return counters;
}

let receiver: TrainReceiver | null = null;

async function serve(): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, serveStream);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port: TRAFFIC_PORT, host: '::', ipv6Only: false }, resolve);
  });
  receiver = new TrainReceiver(TRAFFIC_PORT);
}

async function answer(request: TrafficRequest): Promise<unknown> {
  switch (request.verb) {
    case 'serve': return serve();
    case 'train': return sendTrain(request, TRAFFIC_PORT);
    case 'bursts': return bursts(request.address);
    case 'urgent': return urgent(request.address);
    case 'streams': return receiver?.answers() ?? [];
    case 'counters': return readCounters();
    case 'end': return process.exit();
    default: {
      const { verb, address, port, bytes, timeoutMs } = request;
      return stream(verb, address, port, bytes, timeoutMs);
    }
  }
}

const port = parentPort;
if (port !== null) {
  new Namespace((workerData as { namespaceFd: number }).namespaceFd).enter();
  port.on('message', ({ id, request }: { id: number; request: TrafficRequest }) => {
    answer(request).then(
      (value: unknown) => port.postMessage({ id, error: null, value }),
      (error: Error) => port.postMessage({ id, error: error.message, value: null }));
  });
}
