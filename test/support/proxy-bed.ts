// Backends, clients and listeners on the loopback interface, for the proxy of node ports.

import { createSocket, type Socket as Datagrams } from 'node:dgram';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import type { Backend } from '../../engine/model.ts';
import { PROXY_LIMITS, type ProxyLimits } from '../../host/node-ports/limits.ts';
import type { Listener } from '../../host/node-ports/plan.ts';
import { PortProxy } from '../../host/node-ports/proxy.ts';
import { PATIENCE_MS } from './until.ts';

const POLL_MS = 10;
/** The kernel lets one connection more wait than it is told. */
const SILENT_BACKLOG = 1;
const SILENT_SERVER = `
  const { createServer } = require('node:net');
  const { parentPort } = require('node:worker_threads');
  const server = createServer();
  server.listen({ port: 0, host: '127.0.0.1', backlog: ${SILENT_BACKLOG} }, () => {
    parentPort.postMessage(server.address().port);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  });
`;

/** A proxy with what it needs, all of which ends with close(). */
export class ProxyBed {
  readonly proxy: PortProxy;
  readonly #ends: (() => void)[] = [];

  constructor(limits: Partial<ProxyLimits> = {}) {
    this.proxy = new PortProxy({ ...PROXY_LIMITS, retryFirstMs: 20, retryMs: 40, ...limits });
    this.#ends.push(() => this.proxy.close());
  }

  close(): void {
    for (const end of this.#ends.reverse()) end();
  }

  /** Waits until something is so. */
  async until(what: string, isSo: () => boolean): Promise<void> {
    const endMs = performance.now() + PATIENCE_MS;
    while (!isSo()) {
      if (performance.now() > endMs) throw new Error(`never: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Puts listeners into force and waits until so many are open. */
  async put(listeners: Listener[], open = listeners.length, owner = 'test'): Promise<void> {
    this.proxy.put(owner, listeners);
    await this.until(`${open} ports open`, () => this.proxy.openCount === open);
  }

  /** A TCP server, half-open as its clients leave it. */
  async server(onClient: (client: Socket) => void, address = '127.0.0.1', port = 0):
  Promise<Backend> {
    const server: Server = createServer({ allowHalfOpen: true }, (client) => {
      client.on('error', () => {});
      this.#ends.push(() => client.destroy());
      onClient(client);
    });
    await new Promise<void>((resolve) => server.listen(port, address, resolve));
    this.#ends.push(() => server.close());
    return { address, port: (server.address() as AddressInfo).port, state: 'ready' };
  }

  /** A TCP port that does not answer: its queue is full, and its thread does nothing. */
  async silent(): Promise<Backend> {
    const worker = new Worker(SILENT_SERVER, { eval: true });
    this.#ends.push(() => void worker.terminate());
    const port = await new Promise<number>((resolve) => worker.once('message', resolve));
    const backend: Backend = { address: '127.0.0.1', port, state: 'ready' };
    for (let count = 0; count <= SILENT_BACKLOG; count += 1) {
      const client = this.client(backend);
      client.on('error', () => {});
      await new Promise((resolve) => client.once('connect', resolve));
    }
    return backend;
  }

  /** A UDP server that answers with a prefix and what it got. */
  async datagrams(prefix: string, address = '127.0.0.1'): Promise<Backend> {
    const socket = this.socket(address);
    await new Promise<void>((resolve) => socket.bind(0, address, resolve));
    socket.on('message', (datagram, { port, address: from }) => {
      socket.send(Buffer.concat([Buffer.from(prefix), datagram]), port, from);
    });
    return { address, port: socket.address().port, state: 'ready' };
  }

  socket(address: string): Datagrams {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    let isClosed = false;
    socket.on('close', () => { isClosed = true; });
    this.#ends.push(() => { if (!isClosed) socket.close(); });
    return socket;
  }

  /** Connects to a listener. */
  client({ address, port }: { address: string; port: number }, localAddress?: string): Socket {
    const socket = connect({
      host: address, port, allowHalfOpen: true,
      ...(localAddress === undefined ? {} : { localAddress }),
    });
    this.#ends.push(() => socket.destroy());
    return socket;
  }

  /** What a connection ends with: all its bytes, or the code of its error. */
  answer(socket: Socket): Promise<string> {
    const parts: Buffer[] = [];
    return new Promise((resolve) => {
      socket.on('data', (part: Buffer) => parts.push(part));
      socket.on('end', () => resolve(Buffer.concat(parts).toString('latin1')));
      socket.on('error', ({ code }: NodeJS.ErrnoException) => resolve(code ?? 'error'));
    });
  }

  /** Sends a request, half-closes, and returns the answer. */
  ask(listener: Listener, request = '', localAddress?: string): Promise<string> {
    const socket = this.client(listener, localAddress);
    const answer = this.answer(socket);
    socket.end(request, 'latin1');
    return answer;
  }

  /** Sends a datagram and returns the answer with where it came from, or the error's code. */
  askDatagram({ address, port }: Listener, request: string, socket = this.socket(address)):
  Promise<string> {
    return new Promise((resolve) => {
      socket.once('message', (datagram, remote) =>
        resolve(`${datagram.toString('latin1')} from ${remote.address} ${remote.port}`));
      socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'));
      socket.send(request, port, address);
    });
  }
}

/** A test with a proxy of its own. */
export function proxyTest(name: string, work: (bed: ProxyBed) => Promise<void>,
  limits: Partial<ProxyLimits> = {}): void {
  test(name, async () => {
    const bed = new ProxyBed(limits);
    try {
      await work(bed);
    } finally {
      bed.close();
    }
  });
}

/** A listener at a port that is free now. */
export async function listenerFor(backends: Backend[], more: Partial<Listener> = {}):
Promise<Listener> {
  const address = more.address ?? '127.0.0.1';
  const port = await freePort(address);
  return {
    owner: 'test', protocol: 'TCP', address, port, backends, affinitySeconds: 0,
    proxyProtocol: 'none', ...more,
  };
}

async function freePort(address: string): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, address, resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Answers with its name and what the client said, once that is all. */
export function echo(name: string): (client: Socket) => void {
  return (client) => {
    const parts: Buffer[] = [];
    client.on('data', (part: Buffer) => parts.push(part));
    client.on('end', () => client.end(Buffer.concat([Buffer.from(name), ...parts])));
  };
}
