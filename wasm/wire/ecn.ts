// Explicit congestion notification (RFC 3168) at the end of a tunnel: what a router on the underlay
// said about the outer packet becomes true of the inner one, by the table of RFC 6040 section 4.2.

import {
  ECN_CE, ECN_ECT_0, ECN_ECT_1, ECN_MASK, ECN_NOT_ECT, IPV4_CHECKSUM, IPV4_VERSION_IHL,
  IPV6_VERSION_CLASS,
} from "../abi/headers";
import { checksumUpdate } from "../checksum";
import { ipTos, isIpv4 } from "./ip";

const DROP: i32 = -1;

/** Combines the outer TOS with the packet's own, of which it changes the ECN field at most. False:
 * the outer packet met congestion, and the inner one has no way to say so, so it must be dropped.
 * Precondition: the IP header is whole. A second call changes nothing more. */
export function decapsulateEcn(packet: usize, outerTos: i32): bool {
  const outer = outerTos & ECN_MASK;
  if (outer == ECN_NOT_ECT || outer == ECN_ECT_0) return true;
  const inner = ipTos(packet) & ECN_MASK;
  const combined = combine(outer, inner);
  if (combined == DROP) return false;
  if (combined == inner) return true;
  if (isIpv4(packet)) setIpv4Ecn(packet, combined);
  else setIpv6Ecn(packet, combined);
  return true;
}

/** The rows of RFC 6040 figure 4, by what they have in common: congestion is handed on to whoever
 * understands it, ECT(1) takes the place of ECT(0) only, all else stays as the sender had it. */
function combine(outer: i32, inner: i32): i32 {
  if (outer == ECN_CE) return inner == ECN_NOT_ECT ? DROP : ECN_CE;
  return outer == ECN_ECT_1 && inner == ECN_ECT_0 ? ECN_ECT_1 : inner;
}

function setIpv4Ecn(header: usize, ecn: i32): void {
  const before = load<u16>(header, IPV4_VERSION_IHL);
  const after = <u16>((<i32>before & ~(ECN_MASK << 8)) | (ecn << 8));
  store<u16>(header, after, IPV4_VERSION_IHL);
  const updated = checksumUpdate(load<u16>(header, IPV4_CHECKSUM), before, after);
  store<u16>(header, updated, IPV4_CHECKSUM);
}

/** The traffic class begins in the first byte's lower half: its last two bits are bits 4 and 5 of
 * the second byte. */
function setIpv6Ecn(header: usize, ecn: i32): void {
  const second = <i32>load<u8>(header, IPV6_VERSION_CLASS + 1);
  store<u8>(header, <u8>((second & ~(ECN_MASK << 4)) | (ecn << 4)), IPV6_VERSION_CLASS + 1);
}
