// A program in a pod, or on a node: a thread that lives in its network namespace, serves TCP and
// UDP there and reaches out from it, through the namespace's own kernel stack.

import { createHash, randomFillSync } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { connect, createServer, type Socket } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { closeFd } from '../../ffi/file.ts';
import { Namespace } from '../../ffi/netns.ts';
import { openIcmpSocket, receiveFrom, sendTo, setTtl } from '../../ffi/raw-socket.ts';

/** Port on which every agent serves: TCP and UDP. */
export const AGENT_PORT = 8080;

/** What an agent can be asked. Times are milliseconds, sizes bytes. */
export type AgentRequest =
  | { verb: 'serve'; addresses?: string[] }
  | { verb: 'tcp'; address: string; timeoutMs: number }
  | { verb: 'who'; address: string; port: number; timeoutMs: number }
  | { verb: 'resolve'; server: string; name: string; kind: 'A' | 'AAAA' | 'TXT'; timeoutMs: number }
  | { verb: 'udp'; address: string; size: number; timeoutMs: number }
  | { verb: 'sizes'; address: string; sizes: number[]; timeoutMs: number }
  | { verb: 'ping'; address: string; size: number; timeoutMs: number; ttl?: number }
  | { verb: 'upload'; address: string; bytes: number; timeoutMs: number }
  | { verb: 'end' };

/** `ok`: an answer came and was right. `from`: who answered. */
export interface AgentAnswer {
  ok: boolean;
  from: string;
  detail: string;
  elapsedMs: number;
}

const CHUNK_BYTES = 256 * 1024;
const IDENTIFIER = process.pid & 0xffff;
/** Longest wait before something that gets no answer is sent again. */
const RESEND_MS = 1000;
/** Datagrams of the verb `sizes` on their way at a time. */
const IN_FLIGHT = 16;
const SOCKET_BUFFER_BYTES = 1 << 20;

/** Echoes datagrams. A TCP client's first line is `echo`, answered with the client's address,
 * `who`, answered with that and the server's own, or `upload`, after which the rest is hashed and
 * the digest answered. */
async function serve(addresses: string[]): Promise<void> {
  const server = createServer({ allowHalfOpen: true }, handle);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port: AGENT_PORT, host: '::', ipv6Only: false }, resolve);
  });
  for (const address of addresses) {
    const isIpv6 = address.includes(':');
    const socket = createSocket({
      type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6, recvBufferSize: SOCKET_BUFFER_BYTES,
    });
    socket.on('message', (message, remote) => socket.send(message, remote.port, remote.address));
    socket.on('error', () => {});
    await new Promise<void>((resolve) => {
      socket.bind(AGENT_PORT, address, resolve);
    });
  }
}

function handle(socket: Socket): void {
  const hash = createHash('sha256');
  let mode = '';
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: Buffer) => {
    let rest = chunk;
    if (mode === '') {
      const end = chunk.indexOf('\n');
      mode = chunk.subarray(0, end).toString();
      rest = chunk.subarray(end + 1);
      const { remoteAddress = '', localAddress = '' } = socket;
      if (mode === 'who') socket.end(`${remoteAddress} ${localAddress}\n`);
      if (mode === 'echo') socket.end(`${remoteAddress}\n`);
    }
    if (mode === 'upload') hash.update(rest);
  });
  socket.on('end', () => {
    if (mode === 'upload') socket.end(`${hash.digest('hex')}\n`);
    else socket.end();
  });
}

/** Opens a TCP connection, sends, and gives what came back until the end. */
function converse(
  address: string,
  timeoutMs: number,
  send: (socket: Socket) => void,
  port = AGENT_PORT,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port });
    let answer = '';
    const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), timeoutMs);
    socket.on('connect', () => send(socket));
    socket.on('data', (chunk: Buffer) => { answer += chunk.toString(); });
    socket.on('end', () => resolve(answer.trim()));
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      reject(new Error('closed without an answer'));
    });
  });
}

async function tcp(address: string, timeoutMs: number): Promise<string> {
  const answer = await converse(address, timeoutMs, (socket) => socket.end('echo\n'));
  return answer.replace(/^::ffff:/, '');
}

async function who(address: string, port: number, timeoutMs: number): Promise<string> {
  const answer = await converse(address, timeoutMs, (socket) => socket.end('who\n'), port);
  return answer.replace(/::ffff:/g, '');
}

/** Asks a DNS server; answers are joined by spaces. */
async function resolve(
  { server, name, kind, timeoutMs }: Extract<AgentRequest, { verb: 'resolve' }>,
): Promise<string> {
  const resolver = new Resolver({ timeout: timeoutMs, tries: 2 });
  resolver.setServers([server.includes(':') ? `[${server}]:53` : server]);
  const answers = kind === 'TXT' ? await resolver.resolveTxt(name)
    : kind === 'A' ? await resolver.resolve4(name) : await resolver.resolve6(name);
  return answers.flat().join(' ');
}

/** Sends random bytes and compares the digest that the other side saw. */
async function upload(address: string, bytes: number, timeoutMs: number): Promise<string> {
  const hash = createHash('sha256');
  const chunk = randomFillSync(Buffer.alloc(Math.min(CHUNK_BYTES, bytes)));
  const answer = await converse(address, timeoutMs, (socket) => {
    let left = bytes;
    socket.write('upload\n');
    const push = (): void => {
      while (left > 0) {
        const part = chunk.subarray(0, Math.min(chunk.length, left));
        hash.update(part);
        left -= part.length;
        if (!socket.write(part)) {
          socket.once('drain', push);
          return;
        }
      }
      socket.end();
    };
    push();
  });
  if (answer !== hash.digest('hex')) throw new Error(`digest differs: ${answer}`);
  return answer;
}

/** The wait for an answer before something is sent again. */
function resendMs(timeoutMs: number): number {
  return Math.min(Math.max(timeoutMs / 4, 50), RESEND_MS);
}

/** Sends one datagram, again until it is echoed or time is up. */
function udp(address: string, size: number, timeoutMs: number): Promise<string> {
  const payload = randomFillSync(Buffer.alloc(size));
  return new Promise((resolve, reject) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const send = (): void => socket.send(payload, AGENT_PORT, address);
    const again = setInterval(send, resendMs(timeoutMs));
    const finish = (error: Error | null, from: string): void => {
      clearInterval(again);
      clearTimeout(timer);
      socket.close();
      if (error === null) resolve(from);
      else reject(error);
    };
    const timer = setTimeout(() => finish(new Error('no answer in time'), ''), timeoutMs);
    socket.on('error', (error) => finish(error, ''));
    socket.on('message', (message, { address: from }) => {
      finish(message.equals(payload) ? null : new Error('the echo differs'), from);
    });
    send();
  });
}

/**
 * Sends a datagram of each size, a few at a time, each again while it is not echoed, and compares
 * the echoes. Returns how many had to be sent again.
 */
async function sizes(address: string, wanted: number[], timeoutMs: number): Promise<number> {
  const noise = randomFillSync(Buffer.alloc(2 * Math.max(...wanted)));
  const payloadOf = (size: number): Buffer => noise.subarray(size, 2 * size);
  const waiting = new Map<number, () => void>();
  const type = address.includes(':') ? 'udp6' : 'udp4';
  const socket = createSocket({ type, recvBufferSize: SOCKET_BUFFER_BYTES });
  let fault = '';
  socket.on('error', (error) => { fault = error.message; });
  socket.on('message', (message) => {
    if (!message.equals(payloadOf(message.length))) fault = `echo of ${message.length} differs`;
    waiting.get(message.length)?.();
  });
  const deadline = performance.now() + timeoutMs;
  let resent = -wanted.length;
  const exchange = async (size: number): Promise<void> => {
    let isEchoed = false;
    while (!isEchoed && fault === '') {
      if (performance.now() > deadline) throw new Error(`no answer in time to ${size} bytes`);
      resent += 1;
      isEchoed = await new Promise<boolean>((resolve) => {
        const timer = setTimeout(() => resolve(false), RESEND_MS);
        waiting.set(size, () => {
          clearTimeout(timer);
          resolve(true);
        });
        socket.send(payloadOf(size), AGENT_PORT, address);
      });
    }
  };
  const left = [...wanted];
  const runner = async (): Promise<void> => {
    for (let size = left.pop(); size !== undefined; size = left.pop()) await exchange(size);
  };
  try {
    await Promise.all(Array.from({ length: IN_FLIGHT }, runner));
  } finally {
    socket.close();
  }
  if (fault !== '') throw new Error(fault);
  return resent;
}

let lastSequence = 0;

/** Sends echo requests until one is answered, by a reply or by an ICMP error. */
async function ping(
  address: string,
  size: number,
  timeoutMs: number,
  ttl: number | undefined,
): Promise<{ from: string; type: number; code: number }> {
  const isIpv6 = address.includes(':');
  const family = isIpv6 ? 'IPv6' : 'IPv4';
  const fd = openIcmpSocket(family);
  try {
    if (ttl !== undefined) setTtl(fd, family, ttl);
    lastSequence = (lastSequence + 1) & 0xffff;
    const sequence = lastSequence;
    const request = echoRequest(isIpv6, sequence, size);
    const deadline = performance.now() + timeoutMs;
    let nextSend = 0;
    const buffer = new Uint8Array(65536);
    while (performance.now() < deadline) {
      if (performance.now() >= nextSend) {
        sendTo(fd, request, address);
        nextSend = performance.now() + resendMs(timeoutMs);
      }
      const received = receiveFrom(fd, buffer, 0);
      if (received === null) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        continue;
      }
      const found = readAnswer(buffer.subarray(0, received.length), isIpv6, request);
      if (found !== null) return { from: received.address, ...found };
    }
    throw new Error('no answer in time');
  } finally {
    closeFd(fd);
  }
}

/** An echo request without IP header; the kernel fills the ICMPv6 checksum in. */
function echoRequest(isIpv6: boolean, number: number, size: number): Uint8Array {
  const request = Uint8Array.from({ length: 8 + size }, (_, at) => at & 0xff);
  const view = new DataView(request.buffer);
  view.setUint16(0, (isIpv6 ? 128 : 8) << 8);
  view.setUint16(2, 0);
  view.setUint16(4, IDENTIFIER);
  view.setUint16(6, number);
  if (!isIpv6) view.setUint16(2, internetChecksum(request));
  return request;
}

function internetChecksum(bytes: Uint8Array): number {
  let sum = 0;
  bytes.forEach((byte, at) => { sum += at % 2 === 0 ? byte << 8 : byte; });
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Type and code of an answer to our request, quoted or not; null for somebody else's. A reply must
 * bring back what we sent. */
function readAnswer(
  packet: Uint8Array,
  isIpv6: boolean,
  request: Uint8Array,
): { type: number; code: number } | null {
  const icmp = isIpv6 ? packet : packet.subarray(((packet[0] ?? 0) & 15) * 4);
  const type = icmp[0] ?? 0;
  const isReply = type === (isIpv6 ? 129 : 0);
  const isError = isIpv6 ? type < 128 : type === 3 || type === 11;
  if (!isReply && !isError) return null;
  let echo = icmp;
  if (isError) {
    const quoted = icmp.subarray(8);
    echo = quoted.subarray(isIpv6 ? 40 : ((quoted[0] ?? 0) & 15) * 4);
  }
  const wanted = request.subarray(4, isReply ? request.length : 8);
  const seen = echo.subarray(4, 4 + wanted.length);
  return Buffer.compare(seen, wanted) === 0 ? { type, code: icmp[1] ?? 0 } : null;
}

async function answer(request: AgentRequest): Promise<AgentAnswer> {
  const started = performance.now();
  const result = { ok: true, from: '', detail: '', elapsedMs: 0 };
  try {
    if (request.verb === 'serve') await serve(request.addresses ?? ['0.0.0.0', '::']);
    else if (request.verb === 'end') process.exit();
    else if (request.verb === 'tcp') result.from = await tcp(request.address, request.timeoutMs);
    else if (request.verb === 'who') {
      result.from = await who(request.address, request.port, request.timeoutMs);
    } else if (request.verb === 'resolve') {
      result.from = await resolve(request);
    } else if (request.verb === 'udp') {
      result.from = await udp(request.address, request.size, request.timeoutMs);
    } else if (request.verb === 'sizes') {
      const resent = await sizes(request.address, request.sizes, request.timeoutMs);
      result.detail = `${resent} sent again`;
    } else if (request.verb === 'upload') {
      result.detail = await upload(request.address, request.bytes, request.timeoutMs);
    } else {
      const { address, size, timeoutMs, ttl } = request;
      const { from, type, code } = await ping(address, size, timeoutMs, ttl);
      const isReply = type === (address.includes(':') ? 129 : 0);
      Object.assign(result, { ok: isReply, from, detail: `ICMP type ${type} code ${code}` });
    }
  } catch (error) {
    Object.assign(result, { ok: false, detail: (error as Error).message });
  }
  result.elapsedMs = performance.now() - started;
  return result;
}

const port = parentPort;
if (port !== null) {
  new Namespace((workerData as { namespaceFd: number }).namespaceFd).enter();
  port.on('message', ({ id, request }: { id: number; request: AgentRequest }) => {
    void answer(request).then((reply) => port.postMessage({ id, reply }));
  });
}
