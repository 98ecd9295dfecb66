// A UDP port of the node. A client's datagrams are a session, which has a socket of its own towards
// one backend; answers leave from the address and port that were asked. A session that is silent
// ends; where its backend is gone or answers that nobody is there, the client's next datagram
// begins another one.

import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { addressFamily } from '../../engine/address.ts';
import type { Backend } from '../../engine/model.ts';
import { Backends, backendKey } from './backends.ts';
import type { Front, Shared } from './front.ts';
import type { Listener } from './plan.ts';
import { proxyHeader } from './proxy-protocol.ts';

const NONE_TRIED: ReadonlySet<string> = new Set();

export class UdpFront implements Front {
  listener: Listener;
  readonly shared: Shared;
  readonly sessions = new Map<string, Session>();
  readonly #backends: Backends;
  #socket: Socket | null = null;

  constructor(listener: Listener, shared: Shared) {
    this.listener = listener;
    this.shared = shared;
    this.#backends = new Backends(shared.limits.affinities);
    this.#backends.set(listener.backends, listener.affinitySeconds);
  }

  get busy(): number {
    return this.sessions.size;
  }

  open(onLost: (error: NodeJS.ErrnoException) => void): Promise<void> {
    const { address, port } = this.listener;
    const socket = makeSocket(address);
    return new Promise((resolve, reject) => {
      const refused = (error: Error): void => {
        socket.close();
        reject(error);
      };
      socket.once('error', refused);
      socket.bind({ address, port, exclusive: true }, () => {
        this.#socket = socket;
        socket.off('error', refused);
        socket.on('error', onLost);
        socket.on('message', (datagram, remote) => this.#take(datagram, remote));
        resolve();
      });
    });
  }

  update(listener: Listener): void {
    this.listener = listener;
    this.#backends.set(listener.backends, listener.affinitySeconds);
    for (const session of this.sessions.values()) {
      if (!this.#backends.has(session.backend)) session.end();
    }
  }

  /** Answers leave by the port, so sessions end with it. */
  close(): void {
    this.end();
    this.#socket?.close();
    this.#socket = null;
  }

  end(): void {
    for (const session of this.sessions.values()) session.end();
  }

  /** Sends a backend's answer to a client. */
  answer(datagram: Uint8Array, remote: RemoteInfo): void {
    const { counters } = this.shared;
    if (this.#socket === null || !hasRoom(this.#socket, this.shared)) {
      counters.datagramsDropped += 1;
      return;
    }
    counters.txDatagrams += 1;
    this.#socket.send(datagram, remote.port, remote.address, () => {});
  }

  #take(datagram: Uint8Array, remote: RemoteInfo): void {
    const { counters } = this.shared;
    if (this.#socket === null) return;
    counters.rxDatagrams += 1;
    const key = `${remote.address} ${remote.port}`;
    const session = this.sessions.get(key) ?? this.#begin(key, remote);
    if (session === null) counters.datagramsDropped += 1;
    else session.send(datagram);
  }

  #begin(key: string, remote: RemoteInfo): Session | null {
    const { used, limits, counters } = this.shared;
    if (used.sessions >= limits.sessions) {
      counters.sessionsRefused += 1;
      return null;
    }
    const backend = this.#backends.pick(remote.address, NONE_TRIED, performance.now());
    if (backend === null) {
      counters.sessionsFailed += 1;
      return null;
    }
    const session = new Session(this, key, remote, backend);
    this.sessions.set(key, session);
    used.sessions += 1;
    counters.sessionsOpened += 1;
    return session;
  }
}

/** A client and the backend it has. */
class Session {
  readonly backend: string;
  readonly #front: UdpFront;
  readonly #key: string;
  readonly #socket: Socket;
  readonly #header: Uint8Array;
  /** Datagrams until the socket is connected, null from then on. */
  #waiting: Uint8Array[] | null = [];
  #timer: NodeJS.Timeout;
  #isAnswered = false;
  #isOver = false;

  constructor(front: UdpFront, key: string, remote: RemoteInfo, backend: Backend) {
    const { listener: { protocol, address, port, proxyProtocol }, shared } = front;
    this.backend = backendKey(backend);
    this.#front = front;
    this.#key = key;
    this.#header = proxyHeader(proxyProtocol,
      { protocol, client: remote.address, clientPort: remote.port, address, port });
    this.#timer = setTimeout(() => this.end(), shared.limits.unansweredMs);
    this.#socket = makeSocket(backend.address);
    this.#socket.on('error', () => this.#fail());
    this.#socket.on('message', (datagram) => {
      this.#heard();
      front.answer(datagram, remote);
    });
    this.#socket.connect(backend.port, backend.address, (error?: Error) => {
      if (error === undefined) this.#flush();
      else this.#fail();
    });
  }

  send(datagram: Uint8Array): void {
    const { limits, counters } = this.#front.shared;
    this.#timer.refresh();
    const hasPlace = this.#waiting === null
      ? hasRoom(this.#socket, this.#front.shared)
      : this.#waiting.length < limits.waitingDatagrams;
    if (!hasPlace) counters.datagramsDropped += 1;
    else if (this.#waiting !== null) this.#waiting.push(datagram);
    else this.#socket.send(this.#withHeader(datagram), (error) => this.#sent(error));
  }

  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#front.sessions.delete(this.#key);
    this.#front.shared.used.sessions -= 1;
    this.#front.shared.counters.datagramsDropped += this.#waiting?.length ?? 0;
    this.#socket.close();
  }

  #flush(): void {
    if (this.#isOver) return;
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    for (const datagram of waiting) this.send(datagram);
  }

  /** ICMP port unreachable (RFC 1122 section 4.1.3.3) comes up with whatever is done next; other
   * errors are about this datagram alone. */
  #sent(error: NodeJS.ErrnoException | null): void {
    if (error === null) return;
    this.#front.shared.counters.datagramsDropped += 1;
    if (error.code === 'ECONNREFUSED') this.#fail();
  }

  #withHeader(datagram: Uint8Array): Uint8Array | Uint8Array[] {
    return this.#header.length === 0 ? datagram : [this.#header, datagram];
  }

  #fail(): void {
    if (this.#isOver) return;
    this.#front.shared.counters.sessionsFailed += 1;
    this.end();
  }

  #heard(): void {
    if (this.#isAnswered) {
      this.#timer.refresh();
      return;
    }
    this.#isAnswered = true;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.end(), this.#front.shared.limits.answeredMs);
  }
}

/** A socket of an address's family. Addresses are never names: nothing is looked up. */
function makeSocket(address: string): Socket {
  const isIpv6 = addressFamily(address) === 'IPv6';
  return createSocket({
    type: isIpv6 ? 'udp6' : 'udp4',
    ipv6Only: isIpv6,
    lookup: (name, _, done) => done(null, name, isIpv6 ? 6 : 4),
  });
}

/** True where a socket may be given another datagram. */
function hasRoom(socket: Socket, { limits }: Shared): boolean {
  return socket.getSendQueueSize() < limits.queuedBytes;
}
