// The rivals: the kernel's own VXLAN, a proxy that forwards one packet at a time, the data path in
// C, wireguard-go, and no tunnel at all.

import { generateKeyPairSync } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { compileProgram, nativeReason } from '../native.ts';
import { writeSysctl } from '../../ffi/netns.ts';
import { findTool, toolReason, WIREGUARD_GO } from '../../scripts/tools.ts';
import { Bed, UNDERLAY_DEVICE, type BedNode } from './bed.ts';
import { podAddress, podCidr, setUpTunnel, VXLAN_POD_MTU, withBed, type Contender, type Recipe,
  type Site } from './contender.ts';
import { sleep } from './program.ts';

const READY = 'ready';
const DEVICE = 'tunnel0';
const VXLAN_PORT = 8472;
const VNI = 1;
const FLANNEL_UDP_PORT = 8285;
/** The link's MTU without IPv4 and UDP headers: flannel's udp backend adds no other. */
const FLANNEL_UDP_MTU = 1472;
/** What wireguard-go gives its device, and everybody uses. */
const WIREGUARD_MTU = 1420;
const WIREGUARD_PORT = 51820;
const WIREGUARD_SOCKETS = '/var/run/wireguard';
const WIREGUARD_TIMEOUT_MS = 5000;
/** Larger than any super-packet with its outer headers would be after the kernel has cut it. */
const TAP_MTU = 65_000;

const wire = (site: Site, txChecksum = true): Promise<Bed> =>
  Bed.create({ cores: site.cores, link: 'wire', txChecksum, stop: site.stop });

function ends({ near, far }: Bed): Pick<Contender, 'near' | 'far' | 'target' | 'traces'> {
  return { near, far, target: podAddress(far.number), traces: [] };
}

/** A program of bench/native/. */
export function nativeProgram(source: string): string {
  const program = compileProgram(source);
  if (program === null) throw new Error(nativeReason());
  return program;
}

/** VXLAN devices as flannel's vxlan backend makes them. Both ends are the kernel's, so checksums of
 * what goes over the link may stay unfinished: that is the best the kernel can do here. */
async function kernelVxlan(site: Site): Promise<Contender> {
  const mac = (number: number): string => `02:c0:00:00:00:0${number}`;
  return withBed(await wire(site), async (bed) => {
    const [near, far] = bed.nodes;
    for (const [self, other] of [[near, far], [far, near]] as const) {
      const { links } = self;
      const device = `flannel.${VNI}`;
      await links.addVxlan({
        name: device, vni: VNI, port: VXLAN_PORT, local: self.address, device: UNDERLAY_DEVICE,
        mtu: VXLAN_POD_MTU, mac: mac(self.number), learning: false,
      });
      await links.setLink(device, { linkLocalIpv6: false });
      await links.setLink(device, { up: true });
      await links.addAddress(device, `${podAddress(self.number)}/32`);
      const via = podAddress(other.number);
      await links.addNeighbour({ device, address: via, mac: mac(other.number) });
      await links.addFdb({ device, mac: mac(other.number), remote: other.address });
      await links.addRoute({ prefix: podCidr(other.number), device, via, onlink: true });
    }
    return { ...ends(bed), daemons: [] };
  });
}

/** Starts the same program on both nodes, each told of itself and of the other. */
async function onBothNodes(
  bed: Bed, command: (self: BedNode, other: BedNode) => string[],
): Promise<Contender['daemons']> {
  const [near, far] = bed.nodes;
  return [
    await bed.start(near, command(near, far), READY),
    await bed.start(far, command(far, near), READY),
  ];
}

async function flannelUdp(site: Site): Promise<Contender> {
  const program = nativeProgram('flannel-udp.c');
  return withBed(await wire(site), async (bed) => {
    const daemons = await onBothNodes(bed, (self, other) => [
      program, DEVICE, podAddress(self.number), `${FLANNEL_UDP_MTU}`, self.address,
      `${FLANNEL_UDP_PORT}`, `${podCidr(other.number)}=${other.address}`,
    ]);
    for (const node of bed.nodes) await setUpTunnel(node, DEVICE, FLANNEL_UDP_MTU);
    return { ...ends(bed), daemons };
  });
}

/** Tier 3 needs inner checksums finished by the sending kernel, which cuts the super-packets. */
async function nativeTwin(site: Site, tier: 2 | 3): Promise<Contender> {
  const program = nativeProgram('path-twin.c');
  return withBed(await wire(site, tier < 3), async (bed) => {
    const daemons = await onBothNodes(bed, (self, other) =>
      [program, `${tier}`, DEVICE, self.address, other.address]);
    for (const node of bed.nodes) {
      await setUpTunnel(node, DEVICE, VXLAN_POD_MTU);
      if (tier === 3) await setUpTap(node);
    }
    return { ...ends(bed), daemons };
  });
}

/** The device by which super-packets leave: the kernel forwards them though they come from one of
 * its own addresses. */
async function setUpTap({ links, namespace }: BedNode): Promise<void> {
  const tap = `${DEVICE}t`;
  namespace.run(() => {
    writeSysctl(`net/ipv4/conf/${tap}/accept_local`, 1);
    writeSysctl(`net/ipv4/conf/${tap}/rp_filter`, 0);
  });
  await links.setLink(tap, { mtu: TAP_MTU, linkLocalIpv6: false });
  await links.setLink(tap, { up: true });
}

/** A pair of X25519 keys, as hexadecimal digits. */
function wireguardKeys(): { privateKey: string; publicKey: string } {
  const { d = '', x = '' } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' });
  const digits = (text: string): string => Buffer.from(text, 'base64url').toString('hex');
  return { privateKey: digits(d), publicKey: digits(x) };
}

/** Configures a wireguard-go over its socket, as wg(8) would. */
async function configureWireguard(path: string, lines: string[]): Promise<void> {
  const deadline = performance.now() + WIREGUARD_TIMEOUT_MS;
  while (!existsSync(path)) {
    if (performance.now() > deadline) throw new Error(`${path}: no socket`);
    await sleep(10);
  }
  const answer = await new Promise<string>((resolve, reject) => {
    const socket = connect(path, () => socket.write(`set=1\n${lines.join('\n')}\n\n`));
    socket.setTimeout(WIREGUARD_TIMEOUT_MS, () => socket.destroy(new Error('no answer')));
    socket.once('error', reject);
    socket.once('data', (chunk: Buffer) => {
      resolve(chunk.toString().trim());
      socket.destroy();
    });
  });
  if (answer !== 'errno=0') throw new Error(`${path}: ${answer}`);
}

async function wireguardGo(site: Site): Promise<Contender> {
  const program = findTool(WIREGUARD_GO.name);
  if (program === null) throw new Error(toolReason(WIREGUARD_GO.name));
  // Sockets have their names in the file system that all namespaces share.
  const device = (node: BedNode): string => `wg${process.pid}n${node.number}`;
  const socket = (node: BedNode): string => `${WIREGUARD_SOCKETS}/${device(node)}.sock`;
  return withBed(await wire(site), async (bed) => {
    const [near, far] = bed.nodes;
    const keys = new Map(bed.nodes.map((node) => [node, wireguardKeys()]));
    const daemons = [];
    for (const node of bed.nodes) bed.onClose(() => rmSync(socket(node), { force: true }));
    for (const [self, other] of [[near, far], [far, near]] as const) {
      daemons.push(await bed.start(self, [program, '-f', device(self)], ''));
      await configureWireguard(socket(self), [
        `private_key=${keys.get(self)?.privateKey ?? ''}`, `listen_port=${WIREGUARD_PORT}`,
        `public_key=${keys.get(other)?.publicKey ?? ''}`,
        `endpoint=${other.address}:${WIREGUARD_PORT}`, `allowed_ip=${podCidr(other.number)}`,
      ]);
      await setUpTunnel(self, device(self), WIREGUARD_MTU);
    }
    return { ...ends(bed), daemons };
  });
}

/** Two namespaces and a veth as it is: what two pods of one node are to each other on a node whose
 * kernel has everything. */
async function veth({ cores, stop }: Site): Promise<Contender> {
  const bed = await Bed.create({ cores, link: 'plain', txChecksum: true, stop });
  const { near, far } = bed;
  return { bed, near, far, target: far.address, daemons: [], traces: [] };
}

export const RIVALS: readonly Recipe[] = [
  { name: 'kernelVxlan', make: kernelVxlan },
  { name: 'flannelUdp', make: flannelUdp },
  { name: 'nativeTwin', make: (site) => nativeTwin(site, 2) },
  { name: 'nativeTwinT3', make: (site) => nativeTwin(site, 3) },
  { name: 'wireguardGo', make: wireguardGo },
  { name: 'veth', make: veth },
];
