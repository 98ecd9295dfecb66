// One packet slot, by its descriptor (abi/layout.ts). A packet is bytes somewhere in its slot;
// headers are put on and taken off by moving its start. Invariant: the start never leaves the
// slot, because each path prepends less than PACKET_HEADROOM. The largest sum is a whole frame for
// the kernel to cut: 22 bytes of tunnel, 8 of UDP, 40 of IPv6, 14 of Ethernet, 24 of vnet header.

import {
  DESCRIPTOR_GSO_TYPE, DESCRIPTOR_HEAD, DESCRIPTOR_INPUT, DESCRIPTOR_LENGTH, DESCRIPTOR_OUTER_TOS,
  DESCRIPTOR_OUTPUT, DESCRIPTOR_PIECES, DESCRIPTOR_REASON, DESCRIPTOR_ROOM, DESCRIPTOR_SEGMENTS,
  DESCRIPTOR_SOURCE,
  DESCRIPTOR_START, DESCRIPTOR_STRIDE, DESCRIPTOR_TRANSLATED, DESCRIPTOR_VERDICT,
  DIRECTORY_DESCRIPTORS, DIRECTORY_SLOT_COUNT, DIRECTORY_START, PACKET_HEADROOM,
} from "./abi/layout";
import { VERDICT_DROP, VERDICT_SEND } from "./abi/verdict";

/** Reads a u32 field of the directory. */
// @ts-ignore: decorator
@inline
export function directory(field: i32): i32 {
  return load<i32>(DIRECTORY_START + field);
}

/** Address of the descriptor of a slot. */
export function descriptorAt(slot: i32): usize {
  return <usize>(directory(DIRECTORY_DESCRIPTORS) + (slot * DESCRIPTOR_STRIDE));
}

/** The worker whose slots `slot` belongs to. */
export function workerOfSlot(slot: i32): i32 {
  return slot / directory(DIRECTORY_SLOT_COUNT);
}

export function packetStart(descriptor: usize): usize {
  return load<u32>(descriptor, DESCRIPTOR_START);
}

export function packetLength(descriptor: usize): i32 {
  return load<i32>(descriptor, DESCRIPTOR_LENGTH);
}

export function inputDevice(descriptor: usize): i32 {
  return load<u16>(descriptor, DESCRIPTOR_INPUT);
}

/** Address of the remote that an underlay datagram came from. */
export function outerSource(descriptor: usize): usize {
  return descriptor + DESCRIPTOR_SOURCE;
}

/** TOS or traffic class of the outer header that an underlay datagram came with. */
export function outerTos(descriptor: usize): i32 {
  return load<u8>(descriptor, DESCRIPTOR_OUTER_TOS);
}

/** Points the descriptor at other bytes. */
export function setPacket(descriptor: usize, start: usize, length: i32): void {
  store<u32>(descriptor, <u32>start, DESCRIPTOR_START);
  store<i32>(descriptor, length, DESCRIPTOR_LENGTH);
}

/** Says how many packets this one stands for. */
export function setSegments(descriptor: usize, count: i32): void {
  store<u16>(descriptor, <u16>count, DESCRIPTOR_SEGMENTS);
}

/** Makes room for a header in front of the packet; returns the new start. */
export function prepend(descriptor: usize, size: i32): usize {
  const start = packetStart(descriptor) - size;
  store<u32>(descriptor, <u32>start, DESCRIPTOR_START);
  store<i32>(descriptor, packetLength(descriptor) + size, DESCRIPTOR_LENGTH);
  store<i32>(descriptor, load<i32>(descriptor, DESCRIPTOR_HEAD) + size, DESCRIPTOR_HEAD);
  return start;
}

/** Takes a header off the front. Precondition: the packet is at least `size` bytes long. */
export function trimFront(descriptor: usize, size: i32): void {
  store<u32>(descriptor, <u32>(packetStart(descriptor) + size), DESCRIPTOR_START);
  store<i32>(descriptor, packetLength(descriptor) - size, DESCRIPTOR_LENGTH);
}

/** Cuts the packet to `length` bytes: link-layer padding, or the tail of a quoted packet. */
export function trimTo(descriptor: usize, length: i32): void {
  store<i32>(descriptor, length, DESCRIPTOR_LENGTH);
}

/** Marks the packet as dropped for `reason`. Counting is drop()'s, in count.ts. */
export function setDropped(descriptor: usize, reason: i32): void {
  store<u8>(descriptor, VERDICT_DROP, DESCRIPTOR_VERDICT);
  store<u8>(descriptor, <u8>reason, DESCRIPTOR_REASON);
}

/** Marks the packet for a local device. */
export function setOutput(descriptor: usize, device: i32): void {
  store<u8>(descriptor, VERDICT_SEND, DESCRIPTOR_VERDICT);
  store<u16>(descriptor, <u16>device, DESCRIPTOR_OUTPUT);
}

/** Forgets what an earlier turn decided about the slot, and what it was. */
export function resetVerdict(descriptor: usize): void {
  setDropped(descriptor, 0);
  clearOffload(descriptor);
  setRoom(descriptor, PACKET_HEADROOM);
}

/** Makes it a packet that stands for itself, with nothing left to do. What an underlay device says
 * of the size of the datagrams in the slot stays. */
export function clearOffload(descriptor: usize): void {
  store<u16>(descriptor, 1, DESCRIPTOR_SEGMENTS);
  store<u16>(descriptor, 0, DESCRIPTOR_GSO_TYPE); // and DESCRIPTOR_OFFLOAD_FLAGS behind it
  store<u32>(descriptor, 0, DESCRIPTOR_PIECES);
  store<u8>(descriptor, 0, DESCRIPTOR_TRANSLATED);
}

/** Bytes before the packet that headers may be written to: nothing else is there. */
export function packetRoom(descriptor: usize): i32 {
  return load<u8>(descriptor, DESCRIPTOR_ROOM);
}

/** Says how many there are. */
export function setRoom(descriptor: usize, size: i32): void {
  store<u8>(descriptor, <u8>min(size, PACKET_HEADROOM), DESCRIPTOR_ROOM);
}

/** TRANSLATED_*, or 0 of a packet that is as it came. */
export function packetTranslated(descriptor: usize): i32 {
  return load<u8>(descriptor, DESCRIPTOR_TRANSLATED);
}

/** Packets that this one stands for: more than one of a super-packet. */
export function packetSegments(descriptor: usize): i32 {
  return load<u16>(descriptor, DESCRIPTOR_SEGMENTS);
}

/** True of a packet that stands for several. */
export function isSuperPacket(descriptor: usize): bool {
  return load<u8>(descriptor, DESCRIPTOR_GSO_TYPE) != 0;
}

/** Address of the first piece of a packet that was joined from several; 0 where the packet lies in
 * one place. The first packetHead() bytes are the first piece's, each further piece is the payload
 * of one of its packets. */
export function packetPieces(descriptor: usize): usize {
  return load<u32>(descriptor, DESCRIPTOR_PIECES);
}

/** Bytes that lie together from the packet's start on. */
export function packetHead(descriptor: usize): i32 {
  return packetPieces(descriptor) == 0
    ? packetLength(descriptor)
    : load<i32>(descriptor, DESCRIPTOR_HEAD);
}
