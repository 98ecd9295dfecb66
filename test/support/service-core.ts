// A node with Services for tests: its core and tables, packets through it, and what is right about
// every packet that comes out: each checksum, computed from nothing.

import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { addressFamily, addressText } from '../../engine/address.ts';
import type { Backend, Service, ServicePort } from '../../engine/model.ts';
import { ServiceTables } from '../../engine/tables/services.ts';
import type { PolicyLimits, ServiceLimits } from '../../engine/memory-map.ts';
import { crc32c } from '../reference/services.ts';
import type { Verdict } from './core.ts';
import {
  concat, internetChecksum, parseIpv4, parseIpv6, PROTOCOL, read16, toHex, transportChecksum,
  word16, word32,
} from './packets.ts';
import { PolicyBed } from './policy-core.ts';
import { TEST_LIMITS } from './core.ts';

/** A TCP, UDP or SCTP packet as both ends know it. */
export interface Seen {
  source: string;
  destination: string;
  protocol: number;
  sourcePort: number;
  destinationPort: number;
  /** Offset of the transport header. */
  offset: number;
  packet: Uint8Array;
}

/** A node with pods and Services, at the virtual time `nowMs`. */
export class ServiceBed extends PolicyBed {
  readonly services: ServiceTables;

  constructor(pods: Record<string, string[]>, settings: {
    services?: Partial<ServiceLimits>; policy?: Partial<PolicyLimits>; routes?: number;
  } = {}) {
    const services = { ...TEST_LIMITS.services, ...settings.services };
    const prefixes = settings.routes ?? 512;
    const routes = { prefixes, nodes: prefixes * 8, leaves: prefixes * 16 };
    super(pods, {
      limits: { services, routesIpv4: routes, routesIpv6: routes },
      ...(settings.policy === undefined ? {} : { policy: settings.policy }),
    });
    this.services = new ServiceTables(this.core, services, (name, addresses) =>
      this.forwarding.claimService(name, addresses));
  }

  /** Puts these Services into force, beside those that are. */
  serve(...services: Service[]): void {
    this.services.apply({ services, removedServices: [] });
  }

  /** What a pod or the node sends, as it leaves; its checksums are right. */
  through(from: string | number, packet: Uint8Array): Seen {
    return seen(this.send(from, packet));
  }

  /** The same for what a peer sends. */
  back(peer: number, packet: Uint8Array): Seen {
    return seen(this.receive(peer, packet));
  }
}

/** A Service with one port, TCP 80 unless said, and backends as `address:port` or `address`. */
export function service(
  addresses: string[], backends: (string | Backend)[],
  more: Partial<Service> & { protocol?: ServicePort['protocol']; port?: number } = {},
): Service {
  const { protocol = 'TCP', port = 80, ...rest } = more;
  return {
    namespace: 'test', name: 'web', addresses, affinitySeconds: 0, empty: 'reject',
    ports: [{ name: 'port', protocol, port, backends: backends.map(backendOf) }], ...rest,
  };
}

/** A backend that is ready, at port 8080. */
export function backendOf(backend: string | Backend): Backend {
  return typeof backend === 'string' ? { address: backend, port: 8080, state: 'ready' } : backend;
}

/** The IP packet that a verdict lets out, outer headers off. */
export function innerOf(verdict: Verdict): Uint8Array {
  assert.ok(verdict.sent, `dropped for reason ${verdict.reason}`);
  const toPeer = verdict.output === layout.DEVICE_UNDERLAY_IPV4
    || verdict.output === layout.DEVICE_UNDERLAY_IPV6;
  return verdict.bytes.subarray(toPeer ? layout.PEER_HEADER_SIZE : 0);
}

function seen(verdict: Verdict): Seen {
  const packet = innerOf(verdict);
  assert.is(verdict.reason, 0);
  assertSums(packet);
  return read(packet);
}

/** Reads a packet without extension headers. */
export function read(packet: Uint8Array): Seen {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const ip = isIpv4 ? parseIpv4(packet) : parseIpv6(packet);
  const protocol = 'protocol' in ip ? ip.protocol : ip.nextHeader;
  const offset = 'headerSize' in ip ? ip.headerSize : 40;
  return {
    source: addressText(ip.source), destination: addressText(ip.destination), protocol,
    sourcePort: read16(packet, offset), destinationPort: read16(packet, offset + 2), offset, packet,
  };
}

/** Says that every checksum of a whole packet is right, or that a UDP datagram has none. */
export function assertSums(packet: Uint8Array): void {
  const { source, destination, protocol, offset } = read(packet);
  const what = (): string => toHex(packet.subarray(0, 100));
  if (addressFamily(source) === 'IPv4') {
    assert.is(internetChecksum(packet.subarray(0, offset)), 0, `header checksum\n${what()}`);
  }
  const segment = packet.subarray(offset);
  if (protocol === PROTOCOL.icmp) {
    assert.is(internetChecksum(segment), 0, `ICMP checksum\n${what()}`);
  } else if (protocol === PROTOCOL.sctp) {
    const sum = crc32c(concat(segment.subarray(0, 8), word32(0), segment.subarray(12)));
    const field = new DataView(segment.buffer, segment.byteOffset + 8).getUint32(0, true);
    assert.is(field, sum, `SCTP checksum\n${what()}`);
  } else if (protocol !== PROTOCOL.udp || read16(segment, 6) !== 0) {
    const sum = transportChecksum(source, destination, protocol, segment);
    assert.is(sum, 0, `transport checksum\n${what()}`);
  }
}

/** SCTP, RFC 9260 section 3, with one chunk. */
export function sctp(
  fields: { sourcePort: number; destinationPort: number; chunk?: number }, payload: Uint8Array,
): Uint8Array {
  const chunk = concat([fields.chunk ?? 1, 0], word16(4 + payload.length), payload);
  const ports = [...word16(fields.sourcePort), ...word16(fields.destinationPort)];
  const packet = concat(ports, word32(0x01020304), word32(0), chunk);
  new DataView(packet.buffer).setUint32(8, crc32c(packet), true);
  return packet;
}
