// Offload switches of an interface: the effect of `ethtool -K INTERFACE tx off`, without ethtool.
//
// Needed where a kernel tunnel device sends over a veth: the veth claims checksum offload, so the
// inner TCP and UDP checksums would arrive unfinished at a user-space tunnel end.

import { IFREQ_DATA, interfaceIoctl, interfaceRequest } from './interface.ts';
import { NativeBlock } from './memory.ts';

export { interfaceMac } from './interface.ts';

const SIOCETHTOOL = 0x8946;
const ETHTOOL_VALUE_SIZE = 8;

/** ETHTOOL_G... and ETHTOOL_S... commands per offload (linux/ethtool.h). */
const COMMANDS = {
  rx: { get: 0x14, set: 0x15 },
  tx: { get: 0x16, set: 0x17 },
  sg: { get: 0x18, set: 0x19 },
  tso: { get: 0x1e, set: 0x1f },
  gso: { get: 0x23, set: 0x24 },
  gro: { get: 0x2b, set: 0x2c },
} as const;

/** Offloads by their short ethtool names; `tx` and `rx` are the checksum offloads. */
export type Offload = keyof typeof COMMANDS;

/** Switches one offload; those that depend on it (TSO on `tx`) follow by the kernel's rules. */
export function setOffload(interfaceName: string, offload: Offload, on: boolean): void {
  ethtool(interfaceName, COMMANDS[offload].set, `ETHTOOL_S ${offload}`, on ? 1 : 0);
}

/** Tells whether an offload is on. */
export function getOffload(interfaceName: string, offload: Offload): boolean {
  return ethtool(interfaceName, COMMANDS[offload].get, `ETHTOOL_G ${offload}`, 0) !== 0;
}

/** Switches all transmit checksum offloads, and with them TSO. */
export function setTxChecksum(interfaceName: string, on: boolean): void {
  setOffload(interfaceName, 'tx', on);
}

function ethtool(name: string, command: number, operation: string, data: number): number {
  const value = new NativeBlock(ETHTOOL_VALUE_SIZE);
  value.setInt(0, command);
  value.setInt(4, data);
  const request = interfaceRequest(name);
  request.setWord(IFREQ_DATA, value.address);
  interfaceIoctl(request, SIOCETHTOOL, `ioctl(SIOCETHTOOL, ${operation})`, name);
  return value.getInt(4);
}
