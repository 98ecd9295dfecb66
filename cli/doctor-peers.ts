// What `culvert doctor` says of each peer of the running daemon: by which kind of tunnel it is
// reached, why by this one, and what of this node is in its way.

import { readFileSync } from 'node:fs';
import { addressBytes, addressFamily, prefixBase } from '../engine/address.ts';
import { PeerReportSchema, StatusReportSchema } from '../engine/model.ts';
import type { PeerReport, StatusReport } from '../engine/model.ts';
import { readSysctl } from '../ffi/netns.ts';
import { ask, askAll } from './client.ts';

/** What is in a peer's way, and what mends it. */
export interface Missing {
  what: string;
  fix: string;
}

/** One way to a peer. */
export interface PeerFinding {
  node: string;
  family: 'IPv4' | 'IPv6';
  kind: PeerReport['kind'];
  remote: string;
  why: string;
  mtu: number;
  missing: Missing[];
}

/** What the machine says, where the daemon runs; null for what cannot be read. */
export interface MachineFacts {
  /** May the daemon open raw sockets (CAP_NET_RAW, capabilities(7))? */
  hasRawSockets(pid: number): boolean | null;
  /** A kernel parameter. */
  sysctl(name: string): string | null;
  /** The interface that the node's own routes lead an IPv4 prefix to. */
  routeInterface(prefix: string): string | null;
}

const CAP_NET_RAW = 13n;

/** What is known without asking anybody: nothing, where no daemon runs. */
export async function examinePeers(runtimeDirectory: string): Promise<{
  peers: PeerFinding[]; problems: string[];
} | null> {
  try {
    const status = await ask(runtimeDirectory, 'status', null, StatusReportSchema);
    const peers = await askAll(runtimeDirectory, 'peer.list', PeerReportSchema);
    return { peers: peerFindings(peers, status, MACHINE), problems: status.sync.problems };
  } catch {
    return null;
  }
}

/** What each peer is reached by, and what is missing for that. */
export function peerFindings(
  peers: readonly PeerReport[],
  { pid, underlay, device }: Pick<StatusReport, 'pid' | 'underlay' | 'device'>,
  machine: MachineFacts,
): PeerFinding[] {
  const missingFor = (peer: PeerReport): Missing[] => {
    if (peer.kind === 'ipip') return missingForIpip(pid, machine);
    if (peer.kind !== 'direct') return [];
    return missingForDirect(peer, [underlay.interface, device.name], machine);
  };
  return peers.map((peer) => {
    const { node, family, kind, remote, why = 'as the cluster says', mtu } = peer;
    return { node, family, kind, remote, why, mtu, missing: missingFor(peer) };
  });
}

function missingForIpip(pid: number, machine: MachineFacts): Missing[] {
  return machine.hasRawSockets(pid) === false
    ? [{ what: 'the daemon has no CAP_NET_RAW, which raw sockets need', fix: 'give it to it' }]
    : [];
}

/** Packets from and to such a peer are forwarded by the node's own stack, between the underlay's
 * interface and our device. */
function missingForDirect(
  { family, podCidrs }: Pick<PeerReport, 'family' | 'podCidrs'>,
  interfaces: [underlay: string, device: string], machine: MachineFacts,
): Missing[] {
  if (family === 'IPv6') return missingForwardingIpv6(interfaces, machine);
  const [underlay] = interfaces;
  const missing = interfaces.map((name) => `net/ipv4/conf/${name}/forwarding`)
    .filter((name) => machine.sysctl(name) === '0')
    .map((name) => mendedBy(name, 1));
  if (machine.sysctl('net/ipv4/conf/all/rp_filter') !== '1'
    && machine.sysctl(`net/ipv4/conf/${underlay}/rp_filter`) !== '1') return missing;
  // RFC 3704 section 2.2: taken is what the route back leads to where it came from.
  for (const prefix of podCidrs.filter((cidr) => addressFamily(cidr) === 'IPv4')) {
    const found = machine.routeInterface(prefix);
    if (found === null || found === underlay) continue;
    missing.push({
      what: `rp_filter of ${underlay} is 1, and ${prefix} is routed to ${found}: what the peer `
        + 'sends is dropped',
      fix: `sysctl -w net.ipv4.conf.${underlay}.rp_filter=2`,
    });
  }
  return missing;
}

function missingForwardingIpv6(interfaces: string[], machine: MachineFacts): Missing[] {
  if (machine.sysctl('net/ipv6/conf/all/forwarding') !== '0') return [];
  const isForced = interfaces.every((name) =>
    machine.sysctl(`net/ipv6/conf/${name}/force_forwarding`) === '1');
  return isForced ? [] : [mendedBy('net/ipv6/conf/all/forwarding', 1)];
}

/** A kernel parameter that is to be another. The name has slashes where an interface's has dots. */
function mendedBy(name: string, value: number): Missing {
  return { what: `${name} is 0`, fix: `sysctl -w ${name}=${value}` };
}

const MACHINE: MachineFacts = {
  hasRawSockets: (pid) => {
    const text = read(`/proc/${pid}/status`);
    const [, hex] = /^CapEff:\s*([0-9a-f]+)$/m.exec(text ?? '') ?? [];
    return hex === undefined ? null : ((BigInt(`0x${hex}`) >> CAP_NET_RAW) & 1n) === 1n;
  },
  sysctl: (name) => {
    try {
      return readSysctl(name);
    } catch {
      return null;
    }
  },
  routeInterface: (prefix) => routeInterface(prefix, read('/proc/net/route') ?? ''),
};

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/** Where /proc/net/route has a prefix lead: the longest of its routes that holds it. */
export function routeInterface(prefix: string, table: string): string | null {
  const target = number(prefixBase(prefix));
  let best = { mask: -1, name: null as string | null };
  for (const line of table.split('\n').slice(1)) {
    const fields = line.split('\t').map((field) => field.trim());
    const [name, destination, mask] = [fields[0], fields[1], fields[7]].map((field) => field ?? '');
    if (!name || !destination || !mask) continue;
    const bits = swapped(mask);
    if (((target & bits) >>> 0) === swapped(destination) && bits > best.mask) {
      best = { mask: bits, name };
    }
  }
  return best.name;
}

/** The kernel prints addresses as numbers of the machine's order, which is little-endian on all
 * that this runs on. */
function swapped(hex: string): number {
  return Buffer.from(hex.padStart(8, '0'), 'hex').readUInt32LE();
}

function number(address: string): number {
  return Buffer.from(addressBytes(address)).readUInt32BE();
}
