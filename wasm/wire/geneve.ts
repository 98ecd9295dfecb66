// Geneve, RFC 8926 section 3.4. Precondition of every accessor: GENEVE_HEADER_SIZE bytes.

import {
  GENEVE_FLAGS, GENEVE_FLAG_CONTROL, GENEVE_FLAG_CRITICAL, GENEVE_HEADER_SIZE, GENEVE_LENGTH_MASK,
  GENEVE_PROTOCOL, GENEVE_VERSION_LENGTH, GENEVE_VNI,
} from "../abi/headers";

/** Accepts a header of version 0 that carries a pod's packet. Reserved bits are ignored, as they
 * must be. */
export function checkGeneve(header: usize): bool {
  const version = <i32>load<u8>(header, GENEVE_VERSION_LENGTH) & ~GENEVE_LENGTH_MASK;
  return version == 0 && (<i32>load<u8>(header, GENEVE_FLAGS) & GENEVE_FLAG_CONTROL) == 0;
}

/** True where some option must be understood by whoever ends the tunnel. */
export function geneveIsCritical(header: usize): bool {
  return (<i32>load<u8>(header, GENEVE_FLAGS) & GENEVE_FLAG_CRITICAL) != 0;
}

/** Bytes of the header with its options. */
export function geneveLength(header: usize): i32 {
  const words = <i32>load<u8>(header, GENEVE_VERSION_LENGTH) & GENEVE_LENGTH_MASK;
  return GENEVE_HEADER_SIZE + (words << 2);
}

/** EtherType of what follows. */
export function geneveProtocol(header: usize): i32 {
  return bswap<u16>(load<u16>(header, GENEVE_PROTOCOL));
}

/** Virtual network identifier. */
export function geneveVni(header: usize): i32 {
  return <i32>(bswap<u32>(load<u32>(header, GENEVE_VNI)) >>> 8);
}
