// Offload switches of an interface: the effect of `ethtool -K INTERFACE tx off`, without ethtool.
//
// Needed where a kernel tunnel device sends over a veth: the veth claims checksum offload, so the
// inner TCP and UDP checksums would arrive unfinished at a user-space tunnel end.

import { IFREQ_DATA, interfaceIoctl, interfaceRequest } from './interface.ts';
import { NativeBlock } from './memory.ts';

export { interfaceMac } from './interface.ts';

const SIOCETHTOOL = 0x8946;
const ETHTOOL_VALUE_SIZE = 8;
const ETHTOOL_GSTRINGS = 0x1b;
const ETHTOOL_GSSET_INFO = 0x37;
const ETHTOOL_SFEATURES = 0x3b;
/** The set of strings that names the features (enum ethtool_stringset). */
const ETH_SS_FEATURES = 4;
const ETH_GSTRING_LEN = 32;
const GSTRINGS_HEADER = 12;
const SSET_INFO_SIZE = 20;
const SSET_INFO_COUNT = 16;
const SFEATURES_HEADER = 8;
const FEATURE_BLOCK_SIZE = 8;
const FEATURES_PER_BLOCK = 32;

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

/** Names of all features that the kernel knows, such as `tx-udp-segmentation`, by their number;
 * empty for a number that is not in use. */
export function featureNames(interfaceName: string): string[] {
  const info = new NativeBlock(SSET_INFO_SIZE);
  info.setInt(0, ETHTOOL_GSSET_INFO);
  info.setInt(8, 1 << ETH_SS_FEATURES);
  control(interfaceName, info, 'ETHTOOL_GSSET_INFO');
  const count = info.getInt(SSET_INFO_COUNT);
  const strings = new NativeBlock(GSTRINGS_HEADER + (count * ETH_GSTRING_LEN));
  strings.setInt(0, ETHTOOL_GSTRINGS);
  strings.setInt(4, ETH_SS_FEATURES);
  strings.setInt(8, count);
  control(interfaceName, strings, 'ETHTOOL_GSTRINGS');
  return Array.from({ length: count }, (_, index) =>
    strings.getText(GSTRINGS_HEADER + (index * ETH_GSTRING_LEN), ETH_GSTRING_LEN));
}

/** Switches the features that `isMeant` picks by name; a kernel that lacks one has it off. */
export function setFeatures(
  interfaceName: string, isMeant: (name: string) => boolean, on: boolean,
): void {
  const names = featureNames(interfaceName);
  const blocks = Math.ceil(names.length / FEATURES_PER_BLOCK);
  const features = new NativeBlock(SFEATURES_HEADER + (blocks * FEATURE_BLOCK_SIZE));
  features.setInt(0, ETHTOOL_SFEATURES);
  features.setInt(4, blocks);
  for (const [index, name] of names.entries()) {
    if (!isMeant(name)) continue;
    // Each block is a word of which features are meant, and a word of what they become.
    const block = SFEATURES_HEADER
      + (Math.floor(index / FEATURES_PER_BLOCK) * FEATURE_BLOCK_SIZE);
    const bit = 1 << (index % FEATURES_PER_BLOCK);
    features.setInt(block, features.getInt(block) | bit);
    if (on) features.setInt(block + 4, features.getInt(block + 4) | bit);
  }
  control(interfaceName, features, 'ETHTOOL_SFEATURES');
}

function ethtool(name: string, command: number, operation: string, data: number): number {
  const value = new NativeBlock(ETHTOOL_VALUE_SIZE);
  value.setInt(0, command);
  value.setInt(4, data);
  control(name, value, operation);
  return value.getInt(4);
}

/** Runs the command that a block begins with. */
function control(name: string, block: NativeBlock, operation: string): void {
  const request = interfaceRequest(name);
  request.setWord(IFREQ_DATA, block.address);
  interfaceIoctl(request, SIOCETHTOOL, `ioctl(SIOCETHTOOL, ${operation})`, name);
}
