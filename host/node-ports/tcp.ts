// A TCP port of the node: each connection is one to a backend, too, and bytes go through until both
// directions are closed. Streams' own back pressure holds the faster side. A half-closed connection
// stays so on the other side (RFC 9293 section 3.6), a reset is passed on as one.

import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Backend } from '../../engine/model.ts';
import { Backends, backendKey } from './backends.ts';
import type { Front, Shared } from './front.ts';
import { KEEP_ALIVE_MS } from './limits.ts';
import type { Listener } from './plan.ts';
import { proxyHeader } from './proxy-protocol.ts';

export class TcpFront implements Front {
  listener: Listener;
  readonly shared: Shared;
  readonly backends: Backends;
  readonly connections = new Set<Connection>();
  #server: Server | null = null;

  constructor(listener: Listener, shared: Shared) {
    this.listener = listener;
    this.shared = shared;
    this.backends = new Backends(shared.limits.affinities);
    this.backends.set(listener.backends, listener.affinitySeconds);
  }

  get busy(): number {
    return this.connections.size;
  }

  open(onLost: (error: NodeJS.ErrnoException) => void): Promise<void> {
    const { address, port } = this.listener;
    const server = createServer(
      { allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => this.#take(client));
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: address, port, exclusive: true, ipv6Only: true }, () => {
        server.off('error', reject);
        server.on('error', onLost);
        this.#server = server;
        resolve();
      });
    });
  }

  update(listener: Listener): void {
    this.listener = listener;
    this.backends.set(listener.backends, listener.affinitySeconds);
    for (const connection of this.connections) {
      if (!this.backends.has(connection.backend)) connection.leave();
    }
  }

  close(): void {
    this.#server?.close();
    this.#server = null;
  }

  end(): void {
    for (const connection of this.connections) connection.abort();
  }

  #take(client: Socket): void {
    const { used, limits, counters } = this.shared;
    if (used.connections >= limits.connections) {
      counters.connectionsRefused += 1;
      client.on('error', () => {});
      reset(client);
      return;
    }
    new Connection(this, client).dial();
  }
}

/** A client's connection, and the one to a backend that goes with it. */
class Connection {
  /** What the backend is known by. */
  backend = '';
  readonly #front: TcpFront;
  readonly #client: Socket;
  readonly #tried = new Set<string>();
  #upstream: Socket | null = null;
  #isJoined = false;
  #isOver = false;

  constructor(front: TcpFront, client: Socket) {
    this.#front = front;
    this.#client = client;
    front.connections.add(this);
    front.shared.used.connections += 1;
    client.setKeepAlive(true, KEEP_ALIVE_MS);
    client.on('error', () => this.#over());
    client.on('close', () => this.#closed());
  }

  /** Asks one backend after the other. */
  dial(): void {
    const { backends, shared: { limits, counters } } = this.#front;
    const client = this.#client.remoteAddress ?? '';
    const mayTry = client !== '' && this.#tried.size < limits.attempts;
    const backend = mayTry ? backends.pick(client, this.#tried, performance.now()) : null;
    if (backend === null) {
      counters.connectionsFailed += 1;
      this.#over();
      return;
    }
    this.backend = backendKey(backend);
    this.#tried.add(this.backend);
    this.#upstream = this.#connect(backend);
  }

  /** Its backend is no more. A connection that it has not accepted yet goes to another. */
  leave(): void {
    if (this.#isJoined) this.abort();
    else this.#upstream?.destroy(new Error('the backend is gone'));
  }

  /** Resets both sides. */
  abort(): void {
    if (this.#isOver) return;
    this.#front.shared.counters.connectionsEnded += 1;
    this.#over();
  }

  #connect({ address, port }: Backend): Socket {
    const upstream = connect({ host: address, port, allowHalfOpen: true, noDelay: true });
    upstream.setKeepAlive(true, KEEP_ALIVE_MS);
    upstream.setTimeout(this.#front.shared.limits.connectMs);
    upstream.once('connect', () => this.#join(upstream));
    const failed = (): void => {
      if (this.#isOver) return;
      if (this.#isJoined) return this.#over();
      upstream.destroy();
      if (this.#upstream === upstream) this.dial();
    };
    upstream.once('timeout', failed);
    upstream.on('error', failed);
    upstream.on('close', () => this.#closed());
    return upstream;
  }

  #join(upstream: Socket): void {
    if (this.#isOver) return;
    const { listener, shared: { limits, counters } } = this.#front;
    const client = this.#client;
    this.#isJoined = true;
    counters.connectionsOpened += 1;
    const { remoteAddress = '', remotePort = 0 } = client;
    const { address, port, protocol, proxyProtocol } = listener;
    const ends = { protocol, client: remoteAddress, clientPort: remotePort, address, port };
    const header = proxyHeader(proxyProtocol, ends);
    if (header.length > 0) upstream.write(header);
    // Bytes of either direction pass the client's socket, so that its timer is enough.
    upstream.setTimeout(0);
    upstream.removeAllListeners('timeout');
    client.setTimeout(limits.idleMs, () => this.abort());
    for (const socket of [client, upstream]) {
      socket.once('end', () => client.setTimeout(limits.halfClosedMs));
    }
    client.pipe(upstream);
    upstream.pipe(client);
  }

  /** Ends what has not ended: by a reset, so that nobody takes half of a stream for the whole. */
  #over(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    reset(this.#client);
    if (this.#upstream !== null) reset(this.#upstream);
    this.#closed();
  }

  #closed(): void {
    const { connections, shared: { used, counters } } = this.#front;
    if (!this.#client.destroyed || this.#upstream?.destroyed === false) return;
    if (!this.#isOver && !this.#isJoined) return this.#over();
    this.#isOver = true;
    if (!connections.delete(this)) return;
    used.connections -= 1;
    counters.rxBytes += this.#client.bytesRead;
    counters.txBytes += this.#client.bytesWritten;
  }
}

/** Ends a connection by a reset (RFC 9293 section 3.5.2). One whose end is still queued behind
 * other bytes cannot be reset, and is closed. */
export function reset(socket: Socket): void {
  if (socket.destroyed) return;
  const isEnding = socket.writableEnded && !socket.writableFinished;
  if (socket.connecting || isEnding) socket.destroy();
  else socket.resetAndDestroy();
}
