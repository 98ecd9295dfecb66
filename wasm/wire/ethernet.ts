// Ethernet II, IEEE 802.3 clause 3. Precondition of every accessor: ETHERNET_HEADER_SIZE bytes.

import { ETHERNET_DESTINATION, ETHERNET_SOURCE, ETHERNET_TYPE } from "../abi/headers";

export function etherType(frame: usize): i32 {
  return bswap<u16>(load<u16>(frame, ETHERNET_TYPE));
}

export function setEtherType(frame: usize, type: i32): void {
  store<u16>(frame, bswap<u16>(<u16>type), ETHERNET_TYPE);
}

/** True where two MAC addresses are the same. */
export function macEquals(left: usize, right: usize): bool {
  return load<u32>(left) == load<u32>(right) && load<u16>(left, 4) == load<u16>(right, 4);
}

export function macIsBroadcast(mac: usize): bool {
  return load<u32>(mac) == 0xffffffff && load<u16>(mac, 4) == 0xffff;
}

/** True for multicast and broadcast: the group bit is the lowest of the first byte. */
export function macIsGroup(mac: usize): bool {
  return (load<u8>(mac) & 1) != 0;
}

export function copyMac(target: usize, source: usize): void {
  store<u32>(target, load<u32>(source));
  store<u16>(target, load<u16>(source, 4), 4);
}

/** Writes a whole header. */
export function emitEthernet(frame: usize, destination: usize, source: usize, type: i32): void {
  copyMac(frame + ETHERNET_DESTINATION, destination);
  copyMac(frame + ETHERNET_SOURCE, source);
  setEtherType(frame, type);
}
