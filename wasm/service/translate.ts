// Rewrites both ends of a packet, from one entry of a pair to the other (table/flow.ts). That is
// all that Services change: addresses, ports, and the checksums that cover them, incrementally
// (RFC 1624 equation 3). What a packet had stands in the worker's block, so that an error about it
// can quote what its sender sent. The slow twin is test/reference/services.ts.
//
// A checksum that is left to a device holds the pseudo-header's sum alone, not complemented (virtio
// 1.2 section 5.1.6.2): there the addresses count, the ports do not.

import {
  ICMP_CHECKSUM, ICMP_HEADER_SIZE, IPV4_ADDRESS_SIZE, IPV4_CHECKSUM, IPV6_ADDRESS_SIZE,
  PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, SCTP_HEADER_SIZE, TCP_CHECKSUM,
  TCP_HEADER_SIZE, TRANSPORT_PORTS_SIZE, UDP_CHECKSUM,
} from "../abi/headers";
import {
  DESCRIPTOR_TRANSLATED, ENDS_ADDRESSES, ENDS_PORTS, WORKERS_START, WORKER_ENDS, WORKER_STRIDE,
} from "../abi/layout";
import { checksumAdd, checksumFold, checksumUpdate } from "../checksum";
import { flowDestination, flowOpenerPorts, flowSameWay, flowSource } from "../flow-key";
import { finishChecksum, leavesChecksum } from "../offload/vnet";
import { packetHead, packetLength, packetStart } from "../packet";
import { flowQuoted } from "../table/flow";
import { ipDestinationAddress, ipSourceAddress, ipTransport, isIpv4 } from "../wire/ip";
import { updateSctpChecksum } from "../wire/sctp";
import {
  hasPorts, ipv6TransportWithin, ipv4Transport, isFragment, isHeaderless, transportOffset,
  transportProtocol,
} from "../wire/transport";
import { udpChecksumField } from "../wire/udp";

const NO_CHECKSUM: i32 = -1;

/** Gives a packet the ends of `flow`, in the direction of its opener or the other. `kind` is
 * TRANSLATED_*. */
export function translate(
  descriptor: usize, worker: i32, flow: usize, byOpener: bool, kind: i32,
): void {
  const ends = endsOf(worker);
  fillEnds(ends, flow, byOpener, isIpv4(packetStart(descriptor)));
  exchange(descriptor, ends);
  store<u8>(descriptor, <u8>kind, DESCRIPTOR_TRANSLATED);
}

/** Gives a translated packet the ends back that it came with. */
export function undoTranslation(descriptor: usize, worker: i32): void {
  exchange(descriptor, endsOf(worker));
  store<u8>(descriptor, 0, DESCRIPTOR_TRANSLATED);
}

/** Translates the packet that an ICMP error quotes from `flow` to `pair`, and the error with it: it
 * goes to whoever sent that packet. Its own source stays. `flow` is what quotedFlow() found. */
export function translateQuote(
  descriptor: usize, worker: i32, flow: usize, pair: usize, kind: i32,
): void {
  finishChecksum(descriptor);
  const packet = packetStart(descriptor);
  const ipv4 = isIpv4(packet);
  const icmp = ipTransport(packet);
  const message = packet + <usize>transportOffset(icmp);
  const quoted = message + ICMP_HEADER_SIZE;
  const room = packetLength(descriptor) - transportOffset(icmp) - ICMP_HEADER_SIZE;
  const transport = ipv4 ? ipv4Transport(quoted) : ipv6TransportWithin(quoted, room);
  const changing = min(room, transportOffset(transport) + TCP_HEADER_SIZE) & -2;
  const before = foldedSum(quoted, changing);
  const ends = endsOf(worker);
  fillEnds(ends, pair, flowSameWay(flow, flowQuoted(worker)), ipv4);
  exchangeEnds(quoted, transport, room, ends, false);
  const after = foldedSum(quoted, changing);
  const updated = checksumUpdate(load<u16>(message, ICMP_CHECKSUM), before, after);
  store<u16>(message, updated, ICMP_CHECKSUM);
  const size = addressSize(ipv4);
  memory.copy(ends + ENDS_ADDRESSES, ipSourceAddress(packet), size);
  memory.copy(ends + ENDS_ADDRESSES + size, ipSourceAddress(quoted), size);
  exchangeEnds(packet, icmp, packetLength(descriptor), ends, false);
  store<u8>(descriptor, <u8>kind, DESCRIPTOR_TRANSLATED);
}

function endsOf(worker: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE) + WORKER_ENDS);
}

function addressSize(ipv4: bool): usize {
  return ipv4 ? IPV4_ADDRESS_SIZE : IPV6_ADDRESS_SIZE;
}

/** Writes both ends of a flow as they lie in a packet of its opener, or of the other end. */
function fillEnds(ends: usize, flow: usize, byOpener: bool, ipv4: bool): void {
  const source = byOpener ? flowSource(flow) : flowDestination(flow);
  const destination = byOpener ? flowDestination(flow) : flowSource(flow);
  const ports = flowOpenerPorts(flow);
  store<u32>(ends, byOpener ? ports : rotl<u32>(ports, 16), ENDS_PORTS);
  if (ipv4) {
    // In one word, because it is read as one.
    const both = <u64>load<u32>(source, 12) | (<u64>load<u32>(destination, 12) << 32);
    store<u64>(ends, both, ENDS_ADDRESSES);
  } else {
    v128.store(ends, v128.load(source), ENDS_ADDRESSES);
    v128.store(ends, v128.load(destination), ENDS_ADDRESSES + IPV6_ADDRESS_SIZE);
  }
}

function exchange(descriptor: usize, ends: usize): void {
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  const field = checksumField(transportProtocol(transport));
  const isOpen = leavesChecksum(descriptor, transportOffset(transport), field);
  exchangeEnds(packet, transport, packetHead(descriptor), ends, isOpen);
}

/** Exchanges the ends of a packet, of which the first `room` bytes are there, with those at `ends`.
 * `isOpen`: the transport checksum is left to a device. */
function exchangeEnds(packet: usize, transport: i32, room: i32, ends: usize, isOpen: bool): void {
  const addresses = ipSourceAddress(packet);
  const ipv4 = isIpv4(packet);
  const before = sumAddresses(addresses, ipv4);
  const after = sumAddresses(ends + ENDS_ADDRESSES, ipv4);
  exchangeAddresses(addresses, ends + ENDS_ADDRESSES, ipv4);
  if (ipv4) {
    const updated = checksumUpdate(load<u16>(packet, IPV4_CHECKSUM), before, after);
    store<u16>(packet, updated, IPV4_CHECKSUM);
  }
  if (isHeaderless(transport)) return;
  const offset = transportOffset(transport);
  const header = packet + <usize>offset;
  const protocol = transportProtocol(transport);
  let had: u32 = 0;
  let has: u32 = 0;
  if (hasPorts(protocol) && offset + TRANSPORT_PORTS_SIZE <= room) {
    had = load<u32>(header);
    has = load<u32>(ends, ENDS_PORTS);
    store<u32>(header, has);
    store<u32>(ends, had, ENDS_PORTS);
  }
  if (protocol == PROTOCOL_SCTP) {
    const isWhole = !isFragment(transport) && offset + SCTP_HEADER_SIZE <= room;
    if (isWhole && had != has) updateSctpChecksum(header, room - offset, had, has);
    return;
  }
  const field = checksumField(protocol);
  if (field == NO_CHECKSUM || offset + field + 2 > room) return;
  updateField(header + <usize>field, protocol, before, after, had, has, isOpen);
}

function exchangeAddresses(addresses: usize, others: usize, ipv4: bool): void {
  if (ipv4) {
    const had = load<u64>(addresses);
    store<u64>(addresses, load<u64>(others));
    store<u64>(others, had);
    return;
  }
  const source = v128.load(addresses);
  const destination = v128.load(addresses, 16);
  v128.store(addresses, v128.load(others));
  v128.store(addresses, v128.load(others, 16), 16);
  v128.store(others, source);
  v128.store(others, destination, 16);
}

/** Updates a transport checksum: addresses' sums went from `before` to `after`, ports from `had` to
 * `has`. A UDP datagram without one stays without (RFC 768). */
function updateField(
  field: usize, protocol: i32, before: u16, after: u16, had: u32, has: u32, isOpen: bool,
): void {
  const value = load<u16>(field);
  if (isOpen) return store<u16>(field, ~checksumUpdate(~value, before, after));
  if (protocol == PROTOCOL_UDP && value == 0) return;
  const removed = folded(<u64>before + <u64>had);
  const added = folded(<u64>after + <u64>has);
  const updated = checksumUpdate(value, removed, added);
  store<u16>(field, protocol == PROTOCOL_UDP ? udpChecksumField(updated) : updated);
}

/** Where a protocol that covers the addresses has its checksum. */
function checksumField(protocol: i32): i32 {
  if (protocol == PROTOCOL_TCP) return TCP_CHECKSUM;
  if (protocol == PROTOCOL_UDP) return UDP_CHECKSUM;
  return protocol == PROTOCOL_ICMPV6 ? ICMP_CHECKSUM : NO_CHECKSUM;
}

/** Sum of two addresses. */
// @ts-ignore: decorator
@inline
function sumAddresses(start: usize, ipv4: bool): u16 {
  if (!ipv4) return foldedSum(start, 2 * IPV6_ADDRESS_SIZE);
  const both = load<u64>(start);
  return folded((both & 0xffffffff) + (both >>> 32));
}

function foldedSum(start: usize, length: i32): u16 {
  return folded(checksumAdd(0, start, length));
}

/** A sum of 16-bit words, in 16 bits. */
// @ts-ignore: decorator
@inline
function folded(sum: u64): u16 {
  return ~checksumFold(sum);
}
