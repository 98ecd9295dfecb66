// Slow twins of what the core does for Services: SCTP's checksum, bit by bit; the choice of a
// backend, by plain arithmetic; and which ends a packet has when it goes on, by maps of
// connections. Time stands still here, and nothing is closed: expiry and RST are told apart by
// tests of their own.

import {
  FLOW_ADDRESS_A, FLOW_ADDRESS_B, FLOW_KEYS, FLOW_KEYS_SIZE, FLOW_PORT_A, FLOW_PROTOCOL,
} from '../../wasm/abi/policy.ts';
import { addressBytes } from '../../engine/address.ts';
import type { Backend, Service } from '../../engine/model.ts';
import { flowKeyHash } from './flow-hash.ts';

/** CRC32c as RFC 9260 appendix A has it, over bytes whose checksum field is 0. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ ((crc & 1) === 1 ? 0x82f63b78 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

const PROTOCOLS = { TCP: 6, UDP: 17, SCTP: 132 } as const;
const TCP_SYN = 2;
const TCP_ACK = 16;
const TRIES = 8;
const KEY = 2048;

/** Both ends of a packet. */
export interface Ends {
  source: string;
  sourcePort: number;
  destination: string;
  destinationPort: number;
}

/** What twins decide about; `flags` are TCP's, 0 for others. */
export interface Asked extends Ends {
  protocol: number;
  flags: number;
}

interface Address {
  address: string;
  port: number;
}

/** A flow as the table has it. `session` is its connection's, where it is translated. */
interface Flow {
  opener: string;
  isAnswered: boolean;
  isEstablished: boolean;
  /** TCP: its backend has left, and its client was told. */
  isClosing: boolean;
  session: Session | null;
}

/** A connection to a Service: its client's ends, and the flow to its backend. */
interface Session {
  client: Address;
  front: Address;
  backend: Address;
  flow: Flow;
  /** Ends of the flow, its opener first. */
  near: Address;
}

/** What a backend is chosen by: FNV-1a over address and port, made different where two meet. */
export function seedsOf(backends: Address[]): Map<string, number> {
  const seeds = backends.map(({ address, port }) => {
    const bytes = [...mapped(address), port >> 8, port & 0xff];
    const seed = bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193), 0x811c9dc5) >>> 0;
    return { name: `${address} ${port}`, seed };
  });
  seeds.sort((a, b) => a.seed - b.seed || (a.name < b.name ? -1 : 1));
  for (const [index, entry] of seeds.entries()) {
    entry.seed = Math.max(entry.seed, (seeds[index - 1]?.seed ?? -1) + 1);
  }
  return new Map(seeds.map(({ name, seed }) => [name, seed]));
}

/** The weight of a backend for a flow: MurmurHash3's finalizer, 30 bits of it. */
export function weightOf(seed: number, hash: number): number {
  let mixed = seed ^ hash;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return ((mixed ^ (mixed >>> 16)) >>> 2);
}

function mapped(address: string): Uint8Array {
  const bytes = addressBytes(address);
  if (bytes.length === 16) return bytes;
  return Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...bytes]);
}

export class ServiceTwin {
  #services = new Map<string, Service>();
  #sessions = new Map<string, Session>();
  #flows = new Map<string, Flow>();
  /** Where an address is: the same word for all of one pod, or of the node. */
  #placeOf: (address: string) => string;
  #view: DataView;

  /** `keys` are those of the core's flow hash. */
  constructor(keys: Uint8Array, placeOf: (address: string) => string) {
    const memory = new Uint8Array(KEY + 64);
    memory.set(keys.subarray(0, FLOW_KEYS_SIZE), FLOW_KEYS);
    this.#view = new DataView(memory.buffer);
    this.#placeOf = placeOf;
  }

  put(service: Service): void {
    this.#services.set(service.name, service);
  }

  /** The ends that a packet goes on with, or the name of the reason for which it is dropped. */
  decide(packet: Asked): Ends | string {
    const front = { address: packet.destination, port: packet.destinationPort };
    return this.#isService(packet.destination)
      ? this.#serve(packet, front)
      : this.#follow(packet, false);
  }

  /** The pair of the flow with these ends, for errors that quote a packet of it: the ends of that
   * packet on the other side. Null where it has none. */
  otherSide(quoted: Asked): Ends | null {
    const session = this.#sessions.get(tupleOf(quoted));
    if (session !== undefined && this.#isLive(session)) {
      const { near, backend } = session;
      return this.#isFrom(quoted, session.client) ? ends(near, backend) : ends(backend, near);
    }
    const pair = this.#flows.get(tupleOf(quoted))?.session ?? null;
    if (pair === null || !this.#isLive(pair)) return null;
    const { client, front, near } = pair;
    return this.#isFrom(quoted, near) ? ends(client, front) : ends(front, client);
  }

  #isFrom(packet: Ends, { address, port }: Address): boolean {
    return packet.source === address && packet.sourcePort === port;
  }

  #isLive(session: Session): boolean {
    return session.flow.session === session;
  }

  #isService(address: string): boolean {
    return [...this.#services.values()].some(({ addresses }) => addresses.includes(address));
  }

  #serve(packet: Asked, front: Address): Ends | string {
    const name = tupleOf(packet);
    const reply = this.#flows.get(name);
    if (reply?.session != null && this.#isLive(reply.session)) {
      this.#advance(reply, packet);
      return ends(reply.session.front, reply.session.client);
    }
    this.#flows.delete(name); // whose session has been given up
    const backends = this.#backendsOf(packet);
    let session = this.#sessions.get(name);
    if (session !== undefined && !this.#isLive(session)) session = undefined;
    if (session !== undefined) {
      const { address, port } = session.backend;
      const isThere = backends?.some((one) => one.address === address && one.port === port);
      const isSyn = packet.protocol === PROTOCOLS.TCP
        && (packet.flags & (TCP_SYN | TCP_ACK)) === TCP_SYN;
      if (isThere !== true || (isSyn && session.flow.isClosing)) {
        if (packet.protocol === PROTOCOLS.TCP && !isSyn) {
          Object.assign(session.flow, { isClosing: true, isEstablished: false });
          return 'serviceGone';
        }
        this.#sessions.delete(name);
        session.flow.session = null;
        this.#wasTranslated.add(session.flow);
        session = undefined;
      }
    }
    if (session !== undefined) return this.#follow({ ...packet, ...pairEnds(session) }, true);
    const found = this.#choose(packet, backends);
    if (typeof found === 'string') return found;
    const near = { address: found.source, port: found.sourcePort };
    const backend = { address: found.destination, port: found.destinationPort };
    this.#follow(found, true);
    const flow = this.#flows.get(tupleOf(found));
    if (flow === undefined) throw new Error('a served packet has opened no flow');
    flow.opener = `${found.source} ${found.sourcePort}`;
    flow.session = {
      client: { address: packet.source, port: packet.sourcePort }, front, backend, flow, near,
    };
    this.#wasTranslated.delete(flow);
    this.#sessions.set(name, flow.session);
    return found;
  }

  #backendsOf(packet: Asked): Backend[] | undefined {
    const isIpv6 = packet.destination.includes(':');
    for (const { addresses, ports } of this.#services.values()) {
      if (!addresses.includes(packet.destination)) continue;
      const port = ports.find(({ protocol, port: number }) =>
        PROTOCOLS[protocol] === packet.protocol && number === packet.destinationPort);
      const isOver = (state: string): boolean => state === 'unready' && packet.protocol === 17;
      return port?.backends.filter(({ address, state }) =>
        address.includes(':') === isIpv6 && !isOver(state));
    }
    return undefined;
  }

  /** The packet as it goes to the best backend to which there is no such flow. */
  #choose(packet: Asked, backends: Backend[] | undefined): Asked | string {
    if (backends === undefined) return 'servicePort';
    const ready = backends.filter(({ state }) => state === 'ready');
    const draining = backends.filter(({ state }) => state === 'draining');
    const candidates = ready.length > 0 ? ready : draining;
    if (candidates.length === 0) return 'serviceEmpty';
    const seeds = seedsOf(backends);
    const hash = Number(this.#hash(packet) >> 32n);
    const weight = ({ address, port }: Address): number =>
      weightOf(seeds.get(`${address} ${port}`) ?? 0, hash);
    const order = [...candidates].sort((a, b) => weight(b) - weight(a));
    for (const { address, port } of order.slice(0, TRIES)) {
      const place = this.#placeOf(packet.source);
      const loops = place === this.#placeOf(address) && isLocal(place);
      const found = {
        ...packet, source: loops ? packet.destination : packet.source,
        destination: address, destinationPort: port,
      };
      if (this.#isVacant(found)) return found;
    }
    return 'serviceConflict';
  }

  #isVacant(packet: Asked): boolean {
    const flow = this.#flows.get(tupleOf(packet));
    if (flow === undefined || flow.isClosing) return true;
    if (flow.session !== null) return false;
    if (this.#wasTranslated.has(flow)) return true;
    return !flow.isEstablished && flow.opener !== `${packet.source} ${packet.sourcePort}`;
  }

  /** Flows whose session has been given up: they are replies that nobody waits for. */
  #wasTranslated = new Set<Flow>();

  /** What the flow table does about a packet that may pass. */
  #follow(packet: Asked, isServed: boolean): Ends | string {
    const name = tupleOf(packet);
    const from = `${packet.source} ${packet.sourcePort}`;
    let flow = this.#flows.get(name);
    const isExempt = this.#isExempt(packet);
    const opens = packet.protocol === PROTOCOLS.TCP
      && (packet.flags & (TCP_SYN | TCP_ACK)) === TCP_SYN;
    if (flow !== undefined && flow.opener !== from && opens) {
      if (isServed || (!isExempt && !flow.isEstablished)) this.#open(name, from);
      return packet;
    }
    if (flow === undefined) {
      if (isExempt && !isServed) return packet;
      flow = this.#open(name, from);
    } else this.#advance(flow, packet);
    if (isServed) return packet;
    return this.#settle(flow, packet, from);
  }

  #settle(flow: Flow, packet: Asked, from: string): Ends | string {
    const { session } = flow;
    if (session === null && !this.#wasTranslated.has(flow)) return packet;
    if (flow.opener === from) {
      if (session !== null && flow.isEstablished) return 'serviceConflict';
      flow.session = null;
      this.#wasTranslated.delete(flow);
      return packet;
    }
    return session === null ? 'serviceSession' : ends(session.front, session.client);
  }

  #open(name: string, opener: string): Flow {
    const before = this.#flows.get(name);
    if (before !== undefined) before.session = null;
    const flow = {
      opener, isAnswered: false, isEstablished: false, isClosing: false, session: null,
    };
    this.#flows.set(name, flow);
    return flow;
  }

  #advance(flow: Flow, packet: Asked): void {
    const byOpener = flow.opener === `${packet.source} ${packet.sourcePort}`;
    if (!byOpener) flow.isAnswered = true;
    else if ((packet.flags & TCP_SYN) === 0) {
      // UDP is established by time, too.
      const isEstablished = flow.isAnswered && packet.protocol !== PROTOCOLS.UDP;
      if (isEstablished) Object.assign(flow, { isEstablished, isClosing: false });
    } else if (flow.isClosing) Object.assign(flow, { isAnswered: false, isClosing: false });
  }

  /** Nobody judges what a pod says to itself or to its node, nor what has no pod of this node. */
  #isExempt({ source, destination }: Ends): boolean {
    const [one, other] = [this.#placeOf(source), this.#placeOf(destination)];
    const pods = [one, other].filter((place) => place.startsWith('pod'));
    return pods.length === 0 || one === other || [one, other].includes('node');
  }

  #hash({ source, sourcePort, destination, destinationPort, protocol }: Asked): bigint {
    const [near, far] = [mapped(source), mapped(destination)];
    const order = Buffer.compare(near, far) || sourcePort - destinationPort;
    const [a, b] = order > 0 ? [far, near] : [near, far];
    const ports = order > 0 ? [destinationPort, sourcePort] : [sourcePort, destinationPort];
    for (const [at, bytes] of [[FLOW_ADDRESS_A, a], [FLOW_ADDRESS_B, b]] as const) {
      bytes.forEach((byte, index) => this.#view.setUint8(KEY + at + index, byte));
    }
    ports.forEach((port, index) => this.#view.setUint16(KEY + FLOW_PORT_A + (index * 2), port));
    this.#view.setUint8(KEY + FLOW_PROTOCOL, protocol);
    return flowKeyHash(this.#view, KEY);
  }
}

function isLocal(place: string): boolean {
  return place === 'node' || place.startsWith('pod');
}

function pairEnds({ near, backend }: Session): Ends {
  return ends(near, backend);
}

function ends(from: Address, to: Address): Ends {
  return {
    source: from.address, sourcePort: from.port, destination: to.address, destinationPort: to.port,
  };
}

/** The name of a flow, the same for both directions. */
function tupleOf({ source, sourcePort, destination, destinationPort, protocol }: Asked): string {
  return [`${source} ${sourcePort}`, `${destination} ${destinationPort}`].sort()
    .join(' ') + ` ${protocol}`;
}
