// VXLAN, RFC 7348 section 5. Precondition of every accessor: VXLAN_HEADER_SIZE bytes.

import { VXLAN_FLAGS, VXLAN_FLAG_VNI, VXLAN_VNI } from "../abi/headers";

/** Accepts a header whose flags are exactly the VNI flag and whose reserved bits are 0, as the
 * kernel's vxlan device does without extensions. */
export function checkVxlan(header: usize): bool {
  return load<u32>(header, VXLAN_FLAGS) == VXLAN_FLAG_VNI && load<u8>(header, VXLAN_VNI + 3) == 0;
}

/** Virtual network identifier. Precondition: checkVxlan() accepted the header. */
export function vxlanVni(header: usize): i32 {
  return <i32>(bswap<u32>(load<u32>(header, VXLAN_VNI)) >>> 8);
}
