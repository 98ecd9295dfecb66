// What the kernel had given a process that was killed before it could note so. The kernel writes
// into memory that outlives the process: a packet into its slot, and what belongs to a datagram
// into a message beside. Both were made to look empty before they were offered, so what does not is
// a packet that nobody else has. Its length is the message's, or as its own header says.

import {
  ETHERNET_HEADER_SIZE, ETHERNET_TYPE, ETHER_TYPE_ARP, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
  IPV4_TOTAL_LENGTH, IPV6_HEADER_SIZE, IPV6_PAYLOAD_LENGTH,
} from '../wasm/abi/headers.ts';
import { DEVICE_FIRST_ENDPOINT, DEVICE_NODE, PACKET_CAPACITY } from '../wasm/abi/layout.ts';
import { MessageVector } from '../ffi/message-vector.ts';
import type { Slots } from './slots.ts';

/** Bytes of an ARP packet for IPv4 over Ethernet, RFC 826. */
const ARP_SIZE = 28;

/** Enters what an earlier process was given in the record of its turn, behind what it had entered
 * itself. `isTap` tells by a device's index of then what its packets look like. Returns how many
 * there are. Precondition: the kept pages are that process's, and the worker does not run. */
export function enterGiven(slots: Slots, isTap: (device: number) => boolean): number {
  const { device, first, end } = slots.offered();
  if (end <= first) return 0;
  if (device === DEVICE_NODE || device >= DEVICE_FIRST_ENDPOINT) {
    const length = isTap(device) ? frameLength(slots, first) : packetLength(slots, first);
    if (length > 0) slots.fill(first, device, length);
    return length > 0 ? 1 : 0;
  }
  const messages = new MessageVector(slots.count, slots.arrivalPlace());
  let last = end;
  while (last > first && messages.length(last - 1 - slots.first) === 0) last -= 1;
  for (let slot = first; slot < last; slot += 1) {
    const place = slot - slots.first;
    slots.fill(slot, device, messages.length(place), messages.segmentSize(place),
      messages.tos(place));
  }
  return last - first;
}

/** Bytes of the frame that a TAP gave; 0 where it gave none, or none that says. */
function frameLength(slots: Slots, slot: number): number {
  const frame = slots.core.packetAddress(slot);
  switch (slots.core.view.getUint16(frame + ETHERNET_TYPE)) {
    case ETHER_TYPE_ARP:
      return ETHERNET_HEADER_SIZE + ARP_SIZE;
    case ETHER_TYPE_IPV4:
    case ETHER_TYPE_IPV6: {
      const length = packetLength(slots, slot, ETHERNET_HEADER_SIZE);
      return length === 0 ? 0 : ETHERNET_HEADER_SIZE + length;
    }
    default:
      return 0;
  }
}

/** Bytes of the packet that begins so far into a slot, RFC 791 section 3.1 and RFC 8200 section 3;
 * 0 where there is none. */
function packetLength({ core }: Slots, slot: number, before = 0): number {
  const { view } = core;
  const packet = core.packetAddress(slot) + before;
  const version = view.getUint8(packet) >>> 4;
  let length = 0;
  if (version === 4) length = view.getUint16(packet + IPV4_TOTAL_LENGTH);
  if (version === 6) length = IPV6_HEADER_SIZE + view.getUint16(packet + IPV6_PAYLOAD_LENGTH);
  return length <= PACKET_CAPACITY - before ? length : 0;
}
