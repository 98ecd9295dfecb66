// Packets larger than a tunnel by flannel's udp takes, in fragments of their own (RFC 791 section
// 3.2). What goes by other tunnels is fragmented outside, by the node's own stack: whoever ends
// them puts it together again. flannel's proxy reads each datagram into a buffer of its MTU and
// loses the rest (pkg/backend/udp/proxy_amd64.c).

import {
  IPV4_CHECKSUM, IPV4_FLAGS_OFFSET, IPV4_FLAG_MF, IPV4_HEADER_SIZE, IPV4_OFFSET_MASK,
  IPV4_OPTION_END, IPV4_OPTION_NOP,
} from "../abi/headers";
import { HEADER_STRIDE, TUNNEL_UDP } from "../abi/layout";
import { checksum } from "../checksum";
import { addDatagrams, pieceSize, setPiece, takeHeaders, takePieces } from "../outbox";
import { packetLength, packetStart, setOutput } from "../packet";
import { peerDevice, peerMtu, peerTunnel } from "../table/record";
import { flowHash, ipEcn, ipEtherType, isIpv4 } from "../wire/ip";
import { ipv4HeaderLength, setIpv4TotalLength } from "../wire/ipv4";

/** An option's bit that says that every fragment has it, RFC 791 section 3.1. */
const OPTION_COPIED: i32 = 0x80;

/** True where the packet must be cut to fit the peer's tunnel. Precondition: it is no super-packet,
 * and checkSize() has let it pass. */
export function needsFragments(descriptor: usize, peer: usize): bool {
  return peerTunnel(peer) == TUNNEL_UDP && packetLength(descriptor) > peerMtu(peer)
    && isIpv4(packetStart(descriptor));
}

/** Addresses the packet to the peer in fragments, each a header block and a part of the payload
 * where it lies. A packet that is a fragment itself is cut like any other. */
export function sendFragments(descriptor: usize, worker: i32, peer: usize): void {
  const packet = packetStart(descriptor);
  const header = ipv4HeaderLength(packet);
  const payload = packetLength(descriptor) - header;
  const size = (peerMtu(peer) - header) & ~7;
  const count = (payload + size - 1) / size;
  const lastSize = payload - ((count - 1) * size);
  const blocks = takeHeaders(worker, count);
  const step = <usize>pieceSize();
  let piece = takePieces(worker, 2 * count);
  for (let index = 0; index < count; index += 1) {
    const block = blocks + <usize>(index * HEADER_STRIDE);
    const length = index < count - 1 ? size : lastSize;
    emitFragment(block, packet, header, length, index * size, index == count - 1);
    setPiece(piece, block, header);
    setPiece(piece + step, packet + <usize>(header + (index * size)), length);
    piece += 2 * step;
  }
  const device = peerDevice(peer, ipEtherType(packet));
  addDatagrams(worker, peer, device, count, 2, header + size, header + lastSize, flowHash(packet),
    ipEcn(packet), true);
  setOutput(descriptor, device);
}

/** Writes the header of the fragment that has `length` bytes from `offset` on. */
function emitFragment(
  block: usize,
  packet: usize,
  header: i32,
  length: i32,
  offset: i32,
  isLast: bool,
): void {
  memory.copy(block, packet, header);
  if (offset > 0) dropUncopied(block + IPV4_HEADER_SIZE, block + <usize>header);
  const before = <i32>bswap<u16>(load<u16>(packet, IPV4_FLAGS_OFFSET));
  const flags = (before & ~IPV4_OFFSET_MASK) | (isLast ? 0 : IPV4_FLAG_MF);
  const place = (before + (offset >> 3)) & IPV4_OFFSET_MASK;
  store<u16>(block, bswap<u16>(<u16>(flags | place)), IPV4_FLAGS_OFFSET);
  setIpv4TotalLength(block, header + length);
  store<u16>(block, 0, IPV4_CHECKSUM);
  store<u16>(block, checksum(block, header), IPV4_CHECKSUM);
}

/** Makes options that only the first fragment has into padding, as long as they were. A malformed
 * one ends the walk, as in checkIpv4(). */
function dropUncopied(options: usize, end: usize): void {
  let at = options;
  while (at < end) {
    const type = <i32>load<u8>(at);
    if (type == IPV4_OPTION_END) return;
    if (type == IPV4_OPTION_NOP) {
      at += 1;
      continue;
    }
    const length = at + 1 < end ? <usize>load<u8>(at, 1) : 0;
    if (length < 2) return;
    const next = min(at + length, end);
    if ((type & OPTION_COPIED) == 0) memory.fill(at, <u8>IPV4_OPTION_NOP, next - at);
    at = next;
  }
}
