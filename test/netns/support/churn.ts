// Services whose backends change all the time, load for them, and a judgement of every packet that
// arrives, by what was in force while it was on its way. Numbers say who belongs to whom, so that a
// packet that is half for one and half for another shows:
//
//   Service n        addresses of service-scene.ts, port 8000 + n
//   its clients      UDP from ports 20000 + 1000 n on, TCP from 10000 + 1000 n on
//   its backend b    its own port 7000 + 10 n + b
//
// A datagram of the load carries the time at which it was sent.

import { addressText } from '../../../engine/address.ts';
import type { Service } from '../../../engine/model.ts';
import { closeFd } from '../../../ffi/file.ts';
import { lostFrames, openPacketSocket, receiveFrame } from '../../../ffi/raw-socket.ts';
import { setOption } from '../../../ffi/socket.ts';
import type { Host } from '../../../cli/demo/bed.ts';
import { PROTOCOL, read16 } from '../../support/packets.ts';
import { CLIENT_PORTS, nowMs, type LoadTarget } from './churn-load.ts';
import { FAMILIES } from './kube-scene.ts';
import { serviceAddress } from './service-scene.ts';

const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
const QUEUE_BYTES = 32 << 20;
const FRAME_SIZE_MAX = 65_536 + 64;
const UDP_HEADER_SIZE = 8;

export const frontPort = (n: number): number => 8000 + n;
export const backendPort = (n: number, b: number): number => 7000 + (10 * n) + b;
export const clientPorts = (n: number, protocol: 'TCP' | 'UDP'): number =>
  (protocol === 'UDP' ? 20_000 : 10_000) + (CLIENT_PORTS * n);

/** Service `n` as the load sees it. */
export function loadTarget(n: number): LoadTarget {
  return {
    addresses: FAMILIES.map((family) => serviceAddress(n, family)), port: frontPort(n),
    from: { TCP: clientPorts(n, 'TCP'), UDP: clientPorts(n, 'UDP') },
  };
}

/** Service `n` with some of the backends, each a pod with its two addresses. */
export function churnService(n: number, pods: string[][], members: Iterable<number>): Service {
  const backends = [...members].flatMap((b) => (pods[b] ?? []).map((address) =>
    ({ address, port: backendPort(n, b), state: 'ready' as const })));
  return {
    namespace: 'test', name: `service-${n}`,
    addresses: FAMILIES.map((family) => serviceAddress(n, family)),
    ports: (['TCP', 'UDP'] as const).map((protocol) =>
      ({ name: protocol.toLowerCase(), protocol, port: frontPort(n), backends })),
    affinitySeconds: 0, empty: 'reject',
  };
}

/** When each backend was in its Service: from when that was asked for until it was answered that it
 * is no more. In between nobody can tell. */
export class Membership {
  readonly #stays = new Map<string, { fromMs: number; toMs: number }[]>();

  join(n: number, b: number, askedMs: number): void {
    const key = `${n} ${b}`;
    const stays = this.#stays.get(key) ?? [];
    stays.push({ fromMs: askedMs, toMs: Infinity });
    this.#stays.set(key, stays);
  }

  leave(n: number, b: number, answeredMs: number): void {
    const stay = this.#stays.get(`${n} ${b}`)?.at(-1);
    if (stay !== undefined) stay.toMs = answeredMs;
  }

  /** True where it may have been a backend at some time of this. */
  meets(n: number, b: number, fromMs: number, toMs: number): boolean {
    const stays = this.#stays.get(`${n} ${b}`) ?? [];
    return stays.some((stay) => stay.fromMs <= toMs && stay.toMs >= fromMs);
  }
}

/** A packet of TCP or UDP. `sentMs` is null where it carries no time. */
export interface Arrival {
  isUdp: boolean;
  source: string;
  sourcePort: number;
  destination: string;
  destinationPort: number;
  sentMs: number | null;
  arrivedMs: number;
}

/** What arrives by a pod's TUN. */
export class Arrivals {
  readonly #fd: number;
  readonly #buffer = new Uint8Array(FRAME_SIZE_MAX);
  readonly #timer: NodeJS.Timeout;
  readonly #take: (arrival: Arrival) => void;

  constructor(host: Host, take: (arrival: Arrival) => void) {
    this.#take = take;
    this.#fd = host.namespace.run(() => openPacketSocket('eth0'));
    setOption(this.#fd, SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES, 'SO_RCVBUFFORCE');
    this.#timer = setInterval(() => this.drain(), 1);
  }

  /** Takes all that has arrived so far. */
  drain(): void {
    for (;;) {
      const frame = receiveFrame(this.#fd, this.#buffer, 0);
      if (frame === null) return;
      if (frame.outgoing) continue;
      const arrival = parse(this.#buffer.subarray(0, frame.length));
      if (arrival !== null) this.#take(arrival);
    }
  }

  /** Frames that crossed and were not seen. */
  close(): number {
    clearInterval(this.#timer);
    const lost = lostFrames(this.#fd);
    closeFd(this.#fd);
    return lost;
  }
}

function parse(packet: Uint8Array): Arrival | null {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const protocol = packet[isIpv4 ? 9 : 6];
  if (protocol !== PROTOCOL.tcp && protocol !== PROTOCOL.udp) return null;
  const [source, size] = isIpv4 ? [12, 4] : [8, 16];
  const start = isIpv4 ? ((packet[0] ?? 0) & 15) * 4 : 40;
  const isUdp = protocol === PROTOCOL.udp;
  const data = start + UDP_HEADER_SIZE;
  const hasTime = isUdp && packet.length === data + Float64Array.BYTES_PER_ELEMENT;
  return {
    isUdp,
    source: addressText(packet.slice(source, source + size)),
    destination: addressText(packet.slice(source + size, source + (2 * size))),
    sourcePort: read16(packet, start), destinationPort: read16(packet, start + 2),
    sentMs: hasTime ? Buffer.from(packet.slice(data)).readDoubleBE() : null,
    arrivedMs: nowMs(),
  };
}
