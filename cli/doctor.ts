// `culvert doctor`: what this kernel offers, which tier will be used, by which tunnel each peer is
// reached, what is wrong and the one command that mends it. Everything is tried, nothing is read
// off a version number.

import { existsSync } from 'node:fs';
import { closeFd } from '../ffi/file.ts';
import { createNamespace } from '../ffi/netns.ts';
import { Links } from '../ffi/netlink.ts';
import { openIpSocket } from '../ffi/raw-socket.ts';
import { probeSegmentLimit, probeUdpGro } from '../ffi/socket.ts';
import { probeOffloads, type TunOffloads } from '../ffi/tun.ts';
import { chooseTier, missingFor, TIERS, type KernelOffers } from '../host/tier.ts';
import { TunnelTap } from '../host/tunnel-tap.ts';
import { examinePeers, type PeerFinding } from './doctor-peers.ts';
import { EXIT_NO_PERMISSION, EXIT_OK } from './exit.ts';
import { print, type OutputFormat } from './table.ts';
import { VERSION } from './version.ts';

/** `needed` checks that fail keep the daemon from running; others only cost something. */
export interface Check {
  name: string;
  ok: boolean;
  needed: boolean;
  found: string;
  fix: string | null;
}

export interface DoctorReport {
  ok: boolean;
  version: string;
  node: string;
  arch: string;
  /** What `auto` takes, the best that the kernel offers, and why the one is not more. */
  tier: { used: string; kernelOffers: string; limits: string[] };
  tunnel: string;
  /** How the running daemon reaches its peers; null where none answers. */
  peers: PeerFinding[] | null;
  checks: Check[];
  notes: string[];
}

/** The protocol number of IPv4 in IP (RFC 2003). */
const IPPROTO_IPIP = 4;

const NO_OFFLOADS: TunOffloads = {
  vnetHeader: false, checksum: false, tso4: false, tso6: false,
  uso4: false, uso6: false, udpTunnelGso: false,
};

/** Prints the report and returns the exit code. */
export async function doctor(
  { output, runtimeDirectory }: { output: OutputFormat; runtimeDirectory: string },
): Promise<number> {
  const report = await examine(runtimeDirectory);
  print(output, report, ['CHECK', 'STATE', 'FOUND', 'FIX'], () => [
    ...report.checks.map(({ name, ok, needed, found, fix }) =>
      [name, ok ? 'ok' : needed ? 'MISSING' : 'absent', found, fix ?? '']),
    ['tunnel', 'ok', report.tunnel, ''],
    ['tier', 'ok', `${report.tier.used} is used, kernel offers ${report.tier.kernelOffers}`, ''],
    ...report.tier.limits.map((limit) => ['tier', '', limit, '']),
    ...(report.peers ?? []).flatMap(peerRows),
    ...report.notes.map((note) => ['note', '', note, '']),
  ]);
  return report.ok ? EXIT_OK : EXIT_NO_PERMISSION;
}

/** A way to a peer, and, below, what is in its way. */
function peerRows({ node, family, kind, remote, why, missing }: PeerFinding): string[][] {
  const found = `${node} ${family}: ${kind} to ${remote}: ${why}`;
  return [
    ['peer', missing.length === 0 ? 'ok' : 'MISSING', found, ''],
    ...missing.map(({ what, fix }) => ['peer', '', what, fix]),
  ];
}

/** Examines the machine, and asks the daemon where one runs. Leaves nothing behind. */
export async function examine(runtimeDirectory: string): Promise<DoctorReport> {
  const offloads: Attempt<TunOffloads> = attempt(() => probeOffloads());
  const offers: KernelOffers = {
    tun: offloads.value ?? NO_OFFLOADS,
    segmentLimit: attempt(() => probeSegmentLimit()).value ?? 1,
    joins: attempt(() => probeUdpGro()).value ?? false,
  };
  const tier = chooseTier('auto', offers);
  const known = await examinePeers(runtimeDirectory);
  const checks = [
    nodeCheck(),
    tunDriverCheck(),
    needed('open a TUN', offloads.error, 'CAP_NET_ADMIN works',
      'run as root, or: setcap cap_net_admin+ep "$(readlink -f "$(command -v node)")"'),
    await vxlanPortCheck(),
    optional('raw sockets', rawSocketError(), 'can be opened',
      'for tunnels of kind ipip alone: run as root, or: '
        + 'setcap cap_net_admin,cap_net_raw+ep "$(readlink -f "$(command -v node)")"'),
    optional('network namespaces', namespaceError(), 'can be made',
      'for the demo and tests alone: run as root; sysctl -w user.max_net_namespaces=1024'),
    optional('kernel veth', await vethError(), 'offered',
      'for the demo and tests alone: modprobe veth'),
    optional('UDP_SEGMENT', offers.segmentLimit > 1 ? null : 'not offered',
      `${offers.segmentLimit} datagrams at once`, 'no command does: Linux 4.18 has it'),
    optional('UDP_GRO', offers.joins ? null : 'not offered', 'offered',
      'no command does: Linux 5.0 has it'),
    optional('tier T3', await tunnelTapError(), 'can be set up',
      'needed for dataPlane.tier T3 alone'),
    optional('kernel vxlan', await vxlanError(), 'offered',
      'not needed: Culvert carries VXLAN itself'),
  ];
  return {
    ok: checks.every(({ ok, needed: isNeeded }) => ok || !isNeeded),
    version: VERSION,
    node: process.version,
    arch: process.arch,
    tier: { used: tier.name, kernelOffers: offeredTier(offers), limits: tier.limits },
    tunnel: 'vxlan, geneve, ipip, flannel\'s udp, direct: for each peer as the cluster says',
    peers: known?.peers ?? null,
    checks,
    notes: [
      'pods reach beyond the cluster only where the node masquerades for them, which Culvert does '
        + 'not do',
      'tier T3 is taken only where dataPlane.tier says so; its packets pass the node\'s FORWARD '
        + 'chain',
      ...known === null ? [`no daemon answers in ${runtimeDirectory}: its peers are not known`]
        : known.problems.map((problem) => `the daemon says: ${problem}`),
    ],
  };
}

interface Attempt<T> {
  value: T | null;
  error: string | null;
}

function attempt<T>(work: () => T): Attempt<T> {
  try {
    return { value: work(), error: null };
  } catch (error) {
    return { value: null, error: (error as Error).message };
  }
}

function needed(name: string, error: string | null, found: string, fix: string): Check {
  const ok = error === null;
  return { name, ok, needed: true, found: error ?? found, fix: ok ? null : fix };
}

function optional(name: string, error: string | null, found: string, fix: string): Check {
  return { ...needed(name, error, found, fix), needed: false };
}

function nodeCheck(): Check {
  const isNew = Number(process.versions.node.split('.')[0]) >= 20;
  return needed('Node.js', isNew ? null : process.version, process.version, 'install Node.js 20');
}

function tunDriverCheck(): Check {
  const error = existsSync('/dev/net/tun') ? null : 'no /dev/net/tun';
  return needed('TUN driver', error, '/dev/net/tun',
    'modprobe tun; mkdir -p /dev/net; mknod /dev/net/tun c 10 200');
}

/** Does the kernel, or another overlay, hold the port already? */
async function vxlanPortCheck(): Promise<Check> {
  const name = 'VXLAN port';
  try {
    const links = new Links();
    try {
      const other = (await links.list()).find(({ kind }) => kind === 'vxlan');
      return optional(name, other === undefined ? null : `${other.name} is a kernel vxlan device`,
        'no kernel vxlan device', `ip link del ${other?.name ?? ''}`);
    } finally {
      links.close();
    }
  } catch (error) {
    return optional(name, (error as Error).message, '', 'rtnetlink is needed');
  }
}

function rawSocketError(): string | null {
  return attempt(() => closeFd(openIpSocket('IPv4', IPPROTO_IPIP))).error;
}

function namespaceError(): string | null {
  return attempt(() => createNamespace().close()).error;
}

/** Tries to make a link in a namespace of its own. Returns why not, or null. */
async function linkError(make: (links: Links) => Promise<void>): Promise<string | null> {
  const made = attempt(() => createNamespace());
  if (made.value === null) return made.error;
  const namespace = made.value;
  const links = namespace.run(() => new Links());
  try {
    await make(links);
    return null;
  } catch (error) {
    return (error as Error).message;
  } finally {
    links.close();
    namespace.close();
  }
}

function vxlanError(): Promise<string | null> {
  return linkError((links) => links.addVxlan({
    name: 'probe', vni: 1, port: 8472, local: '127.0.0.1', mtu: 1450, mac: '02:00:00:00:00:01',
  }));
}

function vethError(): Promise<string | null> {
  return linkError((links) => links.addVeth('probe', 'peer'));
}

/** Sets the TAP of tier T3 up and takes it away again. Returns why that fails, or null. */
async function tunnelTapError(): Promise<string | null> {
  try {
    const links = new Links();
    try {
      const tap = await TunnelTap.open(links, 'tunprobe%d', ['IPv4', 'IPv6']);
      tap.close();
      return tap.limits.length > 0 ? tap.limits.join('; ') : null;
    } finally {
      links.close();
    }
  } catch (error) {
    return (error as Error).message;
  }
}

function offeredTier(offers: KernelOffers): string {
  return TIERS.findLast((tier) => missingFor(tier, offers).length === 0) ?? 'T0';
}
