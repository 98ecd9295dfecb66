// The other nodes of a tunnel lab that are namespaces: one with the kernel's VXLAN, one that routes
// to its peers without a tunnel, one with the proxy of flannel's udp backend, and one whose tunnels
// are Open vSwitch's.

import { execFile } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { compileProgram } from '../../../bench/native.ts';
import { hostPrefix, type Family } from '../../../engine/address.ts';
import { endsWithUs, findTool, toolFolder } from '../../support/tools.ts';
import { basesOf, ETHERNET_SIZE, FAMILIES, macOf, podAddressesOf, podCidrsOf, POD_NETWORKS,
  remotesOf, type Place, type TunnelLab } from './tunnel-lab.ts';
import { PATIENCE_MS } from '../../support/until.ts';

/** Where node `number` has others, and by which family the packets of both families go there. */
export interface VxlanPeers {
  peers: readonly number[];
  vni: number;
  port: number;
}

const VXLAN_MTU = 1450;

/** Adds a node whose kernel has VXLAN over IPv4, as flannel or Felix would set it up. */
export async function addKernelVxlan(
  lab: TunnelLab, number: number, { peers, vni, port }: VxlanPeers,
): Promise<Place> {
  const node = await lab.addNode(number);
  const { links } = node.host;
  const device = 'vxlan0';
  await links.addVxlan({
    name: device, vni, port, local: remotesOf(number).IPv4, device: 'eth0', mtu: VXLAN_MTU,
    mac: macOf(number, 'IPv4'), learning: false,
  });
  await links.setLink(device, { linkLocalIpv6: false });
  await links.setLink(device, { up: true });
  for (const family of FAMILIES) {
    await links.addAddress(device, hostPrefix(basesOf(number)[family]));
    for (const peer of peers) {
      const via = basesOf(peer)[family];
      const mac = macOf(peer, 'IPv4');
      await links.addNeighbour({ device, address: via, mac });
      await links.addFdb({ device, mac, remote: remotesOf(peer).IPv4 });
      await links.addRoute({ prefix: podCidrsOf(peer)[family], device, via, onlink: true });
    }
  }
  return lab.addKernelPod(number, node, VXLAN_MTU);
}

/** Adds a node that routes to its peers by their addresses on the link, as flannel's host-gw does,
 * and takes packets from where it would send the answers only (rp_filter=1, RFC 3704 section
 * 2.2). */
export async function addDirect(
  lab: TunnelLab, number: number, peers: readonly number[],
): Promise<Place> {
  const node = await lab.addNode(number);
  for (const scope of ['all', 'default', 'eth0']) {
    node.host.sysctl({ [`net.ipv4.conf.${scope}.rp_filter`]: 1 });
  }
  for (const peer of peers) await routeTo(node.host.links, peer);
  return lab.addKernelPod(number, node);
}

/** Leads a peer's pods to its address on the link. */
export async function routeTo(
  links: Place['pod']['links'], peer: number, families: readonly Family[] = FAMILIES,
): Promise<void> {
  for (const family of families) {
    await links.addRoute({
      prefix: podCidrsOf(peer)[family], device: 'eth0', via: remotesOf(peer)[family],
      replace: true,
    });
  }
}

export const FLANNEL_UDP_PORT = 8285;
/** The link's MTU without IPv4 and UDP headers. */
export const FLANNEL_UDP_MTU = 1472;
export const FLANNEL_DEVICE = 'flannel0';

/** Adds a node that does what flannel's udp backend does, by the program in bench/native/. The
 * backend knows IPv4 only. Precondition: there is a C compiler. */
export async function addFlannelUdp(
  lab: TunnelLab, number: number, peers: readonly number[],
): Promise<Place> {
  const program = compileProgram('flannel-udp.c');
  if (program === null) throw new Error('flannel-udp.c did not compile');
  const node = await lab.addNode(number);
  const base = basesOf(number).IPv4;
  await lab.bed.start(node.host, [
    program, FLANNEL_DEVICE, base, `${FLANNEL_UDP_MTU}`, remotesOf(number).IPv4,
    `${FLANNEL_UDP_PORT}`,
    ...peers.map((peer) => `${podCidrsOf(peer).IPv4}=${remotesOf(peer).IPv4}`),
  ], 'ready');
  const { links } = node.host;
  await links.setLink(FLANNEL_DEVICE, { mtu: FLANNEL_UDP_MTU, linkLocalIpv6: false });
  await links.setLink(FLANNEL_DEVICE, { up: true });
  await links.addAddress(FLANNEL_DEVICE, `${base}/32`);
  // The proxy's errors come from the node's own address by the TUN, which kernels drop unless told
  // (Documentation/networking/ip-sysctl.rst); what comes back to it is not to be redirected.
  node.host.sysctl({
    [`net.ipv4.conf.${FLANNEL_DEVICE}.accept_local`]: 1,
    [`net.ipv4.conf.${FLANNEL_DEVICE}.send_redirects`]: 0,
    'net.ipv4.conf.all.send_redirects': 0,
  });
  const [network = ''] = POD_NETWORKS;
  await links.addRoute({ prefix: network, device: FLANNEL_DEVICE });
  return lab.addKernelPod(number, node);
}

/** Leaves room for an option beside the headers; the switch fragments nothing. */
export const SWITCH_MTU = 1440;
/** The bridge that has the underlay's interface, and the one that has the pod and the tunnels. */
const OUTER_BRIDGE = 'br-out';
const INNER_BRIDGE = 'br-in';

/** A node with Open vSwitch: its pod is the node itself, on the inner bridge. */
export interface SwitchPlace extends Place {
  /** Runs ovs-vsctl(8). */
  control: (...words: string[]) => Promise<void>;
  /** Runs ovs-ofctl(8). */
  program: (...words: string[]) => Promise<void>;
}

/** Adds a node whose tunnels are those of Open vSwitch's userspace datapath: no kernel's is used.
 * Its tunnels carry Ethernet. Precondition: findTool() has ovs-vswitchd. */
export async function addOpenVswitch(
  lab: TunnelLab, number: number, peer: number,
): Promise<SwitchPlace> {
  const node = await lab.addNode(number);
  const { host } = node;
  const folder = join(lab.bed.folder, `ovs${number}`);
  const database = join(folder, 'conf.db');
  const socket = `unix:${folder}/db.sock`;
  const schema = join(toolFolder('ovs-vswitchd') ?? '/',
    'usr/share/openvswitch/vswitch.ovsschema');
  const inFolder = (tool: string, ...words: string[]): string[] => [
    'env', ...['RUN', 'LOG', 'DB', 'SYSCONF'].map((name) => `OVS_${name}DIR=${folder}`),
    ...endsWithUs(), findTool(tool) ?? tool, ...words,
  ];
  const run = async (...command: string[]): Promise<void> => {
    const [program = '', ...words] = inFolder(command[0] ?? '', ...command.slice(1));
    await promisify(execFile)(program, words, { timeout: PATIENCE_MS });
  };
  mkdirSync(folder);
  await run('ovsdb-tool', 'create', database, schema);
  await lab.bed.start(host, inFolder('ovsdb-server', '-vconsole:info',
    `--remote=p${socket}`, database), 'ovsdb-server (Open vSwitch)');
  await lab.bed.start(host, inFolder('ovs-vswitchd', '-vconsole:info', '--disable-system', socket),
    'ovs-vswitchd (Open vSwitch)');
  const control = (...words: string[]): Promise<void> =>
    run('ovs-vsctl', `--db=${socket}`, ...words);
  const address = podAddressesOf(number);
  await control('init');
  for (const bridge of [OUTER_BRIDGE, INNER_BRIDGE]) {
    await control('add-br', bridge, '--', 'set', 'bridge', bridge, 'datapath_type=netdev');
  }
  // The kernel is to leave alone what the switch takes from the interface; the node's addresses go
  // where that comes out.
  host.sysctl({
    'net.ipv4.conf.eth0.rp_filter': 1, 'net.ipv4.conf.eth0.arp_ignore': 8,
    'net.ipv6.conf.eth0.disable_ipv6': 1,
  });
  await host.links.removeAddress('eth0', `${node.ipv4}/24`);
  await control('add-port', OUTER_BRIDGE, 'eth0');
  await host.links.setLink(OUTER_BRIDGE, { linkLocalIpv6: false });
  await host.links.setLink(OUTER_BRIDGE, { up: true });
  for (const own of [`${node.ipv4}/24`, `${node.ipv6}/64`]) {
    await host.links.addAddress(OUTER_BRIDGE, own);
  }
  await control('set', 'bridge', INNER_BRIDGE, `other-config:hwaddr=${macOf(number, 'IPv4')}`,
    '--', 'set', 'interface', INNER_BRIDGE, `mtu_request=${SWITCH_MTU}`);
  await host.links.setLink(INNER_BRIDGE, { up: true, linkLocalIpv6: false });
  for (const family of FAMILIES) {
    const via = basesOf(peer)[family];
    await host.links.addAddress(INNER_BRIDGE, hostPrefix(address[family]));
    await host.links.addNeighbour({
      device: INNER_BRIDGE, address: via, mac: macOf(peer, 'IPv4'),
    });
    await host.links.addRoute({
      prefix: podCidrsOf(peer)[family], device: INNER_BRIDGE, via, onlink: true,
    });
  }
  const place = {
    number, node, pod: host, address, device: INNER_BRIDGE, linkHeader: ETHERNET_SIZE, control,
    program: (...words: string[]) => run('ovs-ofctl', ...words),
  };
  lab.places.set(number, place);
  return place;
}

/** The tunnel of a switch to a peer over IPv4, in the place of the one before. */
export function switchTunnel(
  { control }: SwitchPlace, peer: number, kind: 'geneve' | 'vxlan', vni: number, port: number,
): Promise<void> {
  return control('--if-exists', 'del-port', 'tunnel0', '--', 'add-port', INNER_BRIDGE, 'tunnel0',
    '--', 'set', 'interface', 'tunnel0', `type=${kind}`,
    `options:remote_ip=${remotesOf(peer).IPv4}`, `options:key=${vni}`,
    `options:dst_port=${port}`);
}

/** Has a switch put a Geneve option of four bytes into each packet of its pod's (RFC 8926 section
 * 3.5.1); a type with its highest bit set must be understood. */
export async function addGeneveOption(
  { program }: SwitchPlace, optionClass: number, type: number,
): Promise<void> {
  await program('del-flows', INNER_BRIDGE);
  await program('del-tlv-map', INNER_BRIDGE);
  await program('add-tlv-map', INNER_BRIDGE,
    `{class=${optionClass},type=${type},len=4}->tun_metadata0`);
  await program('add-flow', INNER_BRIDGE,
    'priority=2,in_port=LOCAL,actions=set_field:0x01020304->tun_metadata0,NORMAL');
  await program('add-flow', INNER_BRIDGE, 'priority=1,actions=NORMAL');
}

/** Has it put no options into its packets any more. */
export async function removeGeneveOption({ program }: SwitchPlace): Promise<void> {
  await program('del-flows', INNER_BRIDGE);
  await program('add-flow', INNER_BRIDGE, 'actions=NORMAL');
}
