// One packet slot, by its descriptor (abi/layout.ts). A packet is bytes somewhere in its slot;
// headers are put on and taken off by moving its start. Invariant: the start never leaves the
// slot, because each path prepends less than PACKET_HEADROOM (the largest sum is an ICMPv6 error
// that goes back through a tunnel: 48 + 22 bytes, of which 22 were stripped before).

import {
  DESCRIPTOR_INPUT,
  DESCRIPTOR_LENGTH,
  DESCRIPTOR_OUTPUT,
  DESCRIPTOR_REASON,
  DESCRIPTOR_SEGMENTS,
  DESCRIPTOR_SOURCE,
  DESCRIPTOR_START,
  DESCRIPTOR_STRIDE,
  DESCRIPTOR_VERDICT,
  DIRECTORY_DESCRIPTORS,
  DIRECTORY_SLOT_COUNT,
  DIRECTORY_START,
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

/** Makes room for a header in front of the packet; returns the new start. */
export function prepend(descriptor: usize, size: i32): usize {
  const start = packetStart(descriptor) - size;
  store<u32>(descriptor, <u32>start, DESCRIPTOR_START);
  store<i32>(descriptor, packetLength(descriptor) + size, DESCRIPTOR_LENGTH);
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

/** Forgets what an earlier turn decided about the slot. */
export function resetVerdict(descriptor: usize): void {
  setDropped(descriptor, 0);
  store<u16>(descriptor, 1, DESCRIPTOR_SEGMENTS);
}

/** Packets that this one stands for: more than one of a super-packet. */
export function packetSegments(descriptor: usize): i32 {
  return load<u16>(descriptor, DESCRIPTOR_SEGMENTS);
}
