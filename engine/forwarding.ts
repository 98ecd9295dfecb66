// What the cluster looks like, turned into the core's tables, change by change.
//
// Theory of operation. Each owner (the configuration, a cluster node, an endpoint) claims prefixes.
// The first claim of a prefix is the one in the table; the others wait, and are reported, until it
// goes. The new claims of a whole change are made before old ones are given up, so that a prefix
// that stays, or moves to another owner, is never without a route. A node's tunnel has a next hop
// id that stays with it; its record is replaced by publishing the id anew. Nothing here waits for a
// rebuild of everything.

import {
  DIRECTORY_NODE_IPV4,
  DIRECTORY_NODE_IPV6,
  DIRECTORY_REMOTES_IPV4,
  DIRECTORY_REMOTES_IPV6,
  DIRECTORY_ROUTES_IPV4,
  DIRECTORY_ROUTES_IPV6,
  DIRECTORY_START,
  NEXT_HOP_KIND_ENDPOINT,
  NEXT_HOP_KIND_PEER,
  NEXT_HOP_NODE,
  NEXT_HOP_OUTSIDE,
  NEXT_HOP_SERVICE,
  NEXT_HOP_UNREACHABLE,
} from '../wasm/abi/layout.ts';
import { addressBytes, addressFamily, hostPrefix, prefixBase, type Family } from './address.ts';
import { ClaimTable, type Claim } from './claims.ts';
import type { Core } from './core.ts';
import type { Limits } from './memory-map.ts';
import type { ClusterNode, Delta, Route, Snapshot, Tunnel } from './model.ts';
import { FLANNEL_VXLAN_PORT } from './net-conf.ts';
import { DeviceTable } from './tables/device.ts';
import { TableFullError } from './tables/limits.ts';
import { NextHopTable } from './tables/next-hop.ts';
import { PeerTable } from './tables/peer.ts';
import { PrefixTable } from './tables/prefix.ts';
import { groupTunnels, isOtherKind, tunnelOverhead, withPort, type PeerTunnel } from './tunnel.ts';

/** What the tables need to know beside the cluster. `podNetworks` get an unreachable route under
 * the nodes' own; `underlayMtu` is the MTU of the link that carries the tunnels, at first. */
export interface ForwardingOptions {
  nodeName: string;
  podNetworks: string[];
  /** The node's own stack has pods too: what of our pod networks no endpoint has is the node's. */
  hasNodePods?: boolean;
  underlayMtu: number;
  /** The port of tunnels that say none. */
  tunnelPort?: number;
  defaultMac: Record<Family, string>;
}

/** A tunnel to a remote node, as published, and the pod packets that take it. `pathMtu` is what the
 * way there takes, null where that is no less than the link; `mtu` what that leaves to the packets
 * of pods. `previous` is another kind of tunnel, whose packets are taken, too: what it was until
 * lately or, lasting, what the other end may choose in its place; `record` counts in the table. */
export interface Peer {
  node: string;
  families: Family[];
  tunnel: PeerTunnel;
  nextHop: number;
  record: number;
  pathMtu: number | null;
  mtu: number;
  previous: { tunnel: PeerTunnel; record: number; isLasting: boolean } | null;
}

/** An endpoint, as entered. */
export interface AttachedEndpoint {
  owner: string;
  device: number;
  nextHop: number;
}

export class Forwarding {
  readonly nextHops: NextHopTable;
  readonly peerTable: PeerTable;
  readonly devices: DeviceTable;
  readonly nodes = new Map<string, ClusterNode>();
  readonly peers = new Map<string, Peer>();
  #core: Core;
  #options: ForwardingOptions;
  #underlayMtu: number;
  #routes: Record<Family, ClaimTable>;
  #remotes: Record<Family, ClaimTable>;
  /** Peers whose routes go with the next settling, and they after them. */
  #leaving = new Set<string>();
  #refused = new Map<string, { node: ClusterNode; reason: string }>();
  /** Addresses that each Service claims. */
  #services = new Map<string, string[]>();

  constructor(core: Core, limits: Limits, options: ForwardingOptions) {
    this.#core = core;
    this.#options = options;
    this.#underlayMtu = options.underlayMtu;
    this.nextHops = new NextHopTable(core);
    this.peerTable = new PeerTable(core);
    this.devices = new DeviceTable(core);
    const table = (name: string, field: number, limit: number): ClaimTable =>
      new ClaimTable(new PrefixTable(core, name, field, limit));
    this.#routes = {
      IPv4: table('IPv4 routes', DIRECTORY_ROUTES_IPV4, limits.routesIpv4.prefixes),
      IPv6: table('IPv6 routes', DIRECTORY_ROUTES_IPV6, limits.routesIpv6.prefixes),
    };
    this.#remotes = {
      IPv4: table('IPv4 remotes', DIRECTORY_REMOTES_IPV4, limits.remotesIpv4.prefixes),
      IPv6: table('IPv6 remotes', DIRECTORY_REMOTES_IPV6, limits.remotesIpv6.prefixes),
    };
    this.#claimRoutes('configuration', [
      { prefix: '0.0.0.0/0', nextHop: NEXT_HOP_OUTSIDE, kind: 'outside', via: null },
      { prefix: '::/0', nextHop: NEXT_HOP_OUTSIDE, kind: 'outside', via: null },
      ...options.podNetworks.map((prefix): Claim =>
        ({ prefix, nextHop: NEXT_HOP_UNREACHABLE, kind: 'unreachable', via: null, yields: true })),
    ]);
    this.#settle();
  }

  /** The cluster's description of our own node, once it is known. */
  get local(): ClusterNode | undefined {
    return this.nodes.get(this.#options.nodeName);
  }

  /** Makes the tables what the snapshot says, as far as they take it: see problems(). */
  applySnapshot(snapshot: Snapshot): void {
    const named = new Set(snapshot.nodes.map((node) => node.name));
    const known = [...this.nodes.keys(), ...this.#refused.keys()];
    this.#change(snapshot.nodes, known.filter((name) => !named.has(name)));
  }

  /** The same for a delta. */
  applyDelta(delta: Delta): void {
    this.#change(delta.nodes, delta.removedNodes);
  }

  /** What is not as the cluster says: prefixes that two claim, nodes that found a table full. */
  problems(): string[] {
    const tables = [this.#routes, this.#remotes].flatMap((pair) => [pair.IPv4, pair.IPv6]);
    return [
      ...tables.flatMap((table) => table.conflicts()),
      ...[...this.#refused].map(([name, { reason }]) => `node ${name}: ${reason}`),
    ];
  }

  /** Enters a pod's device and routes. `mac` is null for a TUN. Throws TableFullError, and an Error
   * where an address is taken; then nothing has changed. */
  attachEndpoint(owner: string, addresses: string[], mac: string | null): AttachedEndpoint {
    for (const address of addresses) {
      const holder = this.#routes[addressFamily(address)].claimantOf(hostPrefix(address));
      if (holder !== null) throw new Error(`attach ${owner}: ${address} belongs to ${holder}`);
    }
    const nextHop = this.nextHops.allocate(owner);
    let device = -1;
    try {
      device = this.devices.addEndpoint(nextHop, mac, owner);
      this.nextHops.publish(nextHop, NEXT_HOP_KIND_ENDPOINT, device);
      this.#claimRoutes(owner, addresses.map((address): Claim =>
        ({ prefix: hostPrefix(address), nextHop, kind: 'endpoint', via: owner })));
      return { owner, device, nextHop };
    } catch (error) {
      this.#claimRoutes(owner, []);
      this.#settle();
      if (device >= 0) this.devices.removeEndpoint(device);
      this.nextHops.release(nextHop);
      throw error;
    }
  }

  /** Takes a pod's routes and device out. */
  detachEndpoint(endpoint: AttachedEndpoint): void {
    this.#claimRoutes(endpoint.owner, []);
    this.#settle();
    this.devices.removeEndpoint(endpoint.device);
    this.nextHops.release(endpoint.nextHop);
  }

  /** Makes `addresses` all that lead to a Service. Throws TableFullError; then nothing has
   * changed. An address that another owner has is reported, and waits: see problems(). */
  claimService(name: string, addresses: string[]): void {
    const owner = `service ${name}`;
    const claims = (list: string[]): Claim[] => list.map((address) =>
      ({ prefix: hostPrefix(address), nextHop: NEXT_HOP_SERVICE, kind: 'service', via: name }));
    try {
      this.#claimRoutes(owner, claims(addresses));
    } catch (error) {
      this.#claimRoutes(owner, claims(this.#services.get(name) ?? []));
      this.#settle();
      throw error;
    }
    if (addresses.length > 0) this.#services.set(name, addresses);
    else this.#services.delete(name);
    this.#settle();
  }

  /** Every route in force, by family and prefix. */
  routes(): Route[] {
    return [...this.#routes.IPv4.inForce(), ...this.#routes.IPv6.inForce()];
  }

  /** The route that the core itself finds for an address; null where there is none. */
  lookUp(address: string): Route | null {
    return this.#routes[addressFamily(address)].lookUp(address);
  }

  /** Prefix tables and their fill, for `culvert status`. */
  tables(): { name: string; used: number; limit: number }[] {
    const prefixes = [this.#routes, this.#remotes].flatMap((pair) => [pair.IPv4, pair.IPv6]);
    return [
      ...prefixes.map(({ table }) => ({ name: table.name, used: table.count, limit: table.limit })),
      { name: 'next hops', used: this.nextHops.used, limit: this.nextHops.limit },
      { name: 'peers', used: this.peerTable.used, limit: this.peerTable.limit },
      { name: 'devices', used: this.devices.used, limit: this.devices.limit },
    ];
  }

  /** Nodes that found a table full are tried again with every change. */
  #change(nodes: ClusterNode[], removed: string[]): void {
    const local = nodes.find((node) => node.name === this.#options.nodeName);
    if (local !== undefined) this.#changeOrRefuse(local);
    for (const node of nodes) {
      if (node !== local) this.#changeOrRefuse(node);
    }
    for (const name of removed) this.#removeNode(name);
    this.#settle();
    for (const { node } of [...this.#refused.values()]) this.#changeOrRefuse(node);
    this.#settle();
  }

  /** Gives up what is no longer claimed, and the peers that nothing leads to any more. */
  #settle(): void {
    for (const pair of [this.#routes, this.#remotes]) {
      pair.IPv4.settle();
      pair.IPv6.settle();
    }
    for (const key of this.#leaving) this.#removePeer(key);
    this.#leaving.clear();
  }

  #changeOrRefuse(node: ClusterNode): void {
    const before = this.nodes.get(node.name);
    try {
      if (node.name === this.#options.nodeName) this.#changeLocal(node);
      else this.#changeRemote(node);
      this.#refused.delete(node.name);
    } catch (error) {
      if (before === undefined) this.nodes.delete(node.name);
      else this.nodes.set(node.name, before);
      if (!(error instanceof TableFullError)) throw error;
      this.#refused.set(node.name, { node, reason: error.message });
    }
  }

  #changeLocal(node: ClusterNode): void {
    const before = this.local;
    if (same(before, node)) return;
    this.nodes.set(node.name, node);
    this.#writeOwnAddresses(node);
    const bases = node.podCidrs.map(prefixBase);
    const rest = this.#options.hasNodePods === true
      ? { nextHop: NEXT_HOP_NODE, kind: 'node' as const }
      : { nextHop: NEXT_HOP_UNREACHABLE, kind: 'unreachable' as const };
    this.#claimRoutes(`node ${node.name}`, [
      ...[...bases, ...node.addresses].map((address): Claim =>
        ({ prefix: hostPrefix(address), nextHop: NEXT_HOP_NODE, kind: 'node', via: null })),
      ...node.podCidrs.map((prefix): Claim => ({ prefix, ...rest, via: null })),
    ]);
    if (!same(before?.tunnels, node.tunnels)) {
      for (const peer of this.peers.values()) this.#publishPeer(peer);
    }
  }

  /** ICMP errors come from the base address of our pod network, which peers accept from us. */
  #writeOwnAddresses(node: ClusterNode): void {
    for (const [family, field, size] of [
      ['IPv4', DIRECTORY_NODE_IPV4, 4], ['IPv6', DIRECTORY_NODE_IPV6, 16],
    ] as const) {
      const cidr = node.podCidrs.find((prefix) => addressFamily(prefix) === family);
      const bytes = cidr === undefined ? new Uint8Array(size) : addressBytes(prefixBase(cidr));
      this.#core.bytes.set(bytes, DIRECTORY_START + field);
    }
  }

  #changeRemote(node: ClusterNode): void {
    if (same(this.nodes.get(node.name), node)) return;
    const routes: Claim[] = [];
    const remotes: Claim[] = [];
    const kept = new Set<string>();
    const { tunnelPort = FLANNEL_VXLAN_PORT } = this.#options;
    for (const [tunnel, families] of groupTunnels(node.tunnels, tunnelPort)) {
      const key = `${node.name}/${tunnel.family}`;
      kept.add(key);
      const peer = this.#upsertPeer(key, node.name, tunnel);
      peer.families = families;
      const ours = (text: string): boolean => families.includes(addressFamily(text));
      const own = node.addresses.filter(ours).map(hostPrefix);
      for (const prefix of new Set([...node.podCidrs.filter(ours), ...own])) {
        routes.push({ prefix, nextHop: peer.nextHop, kind: 'peer', via: node.name });
      }
      const prefix = hostPrefix(tunnel.remote);
      remotes.push({ prefix, nextHop: peer.nextHop, kind: 'peer', via: node.name });
    }
    const owner = `node ${node.name}`;
    this.#claimRoutes(owner, routes);
    this.#claimRemotes(owner, remotes);
    for (const key of peerKeys(node.name)) {
      if (!kept.has(key)) this.#leaving.add(key);
    }
    this.nodes.set(node.name, node);
  }

  #removeNode(name: string): void {
    this.nodes.delete(name);
    this.#refused.delete(name);
    this.#claimRoutes(`node ${name}`, []);
    this.#claimRemotes(`node ${name}`, []);
    for (const key of peerKeys(name)) this.#leaving.add(key);
  }

  #upsertPeer(key: string, node: string, tunnel: PeerTunnel): Peer {
    const known = this.peers.get(key);
    this.#leaving.delete(key);
    if (known !== undefined) {
      if (!same(known.tunnel, tunnel)) this.#publishPeer(known, tunnel);
      return known;
    }
    const nextHop = this.nextHops.allocate(`peer ${key}`);
    const peer: Peer = {
      node, families: [], tunnel, nextHop, record: -1, pathMtu: null, mtu: 0, previous: null,
    };
    try {
      this.#publishPeer(peer);
    } catch (error) {
      this.nextHops.release(nextHop);
      throw error;
    }
    this.peers.set(key, peer);
    return peer;
  }

  /** Writes the peer a new record and points its id there. */
  #publishPeer(peer: Peer, tunnel = peer.tunnel): void {
    const { nextHop, record: left, previous: before } = peer;
    if (tunnel.remote !== peer.tunnel.remote) peer.pathMtu = null;
    const isSwitch = left >= 0 && isOtherKind(peer.tunnel, tunnel);
    let previous = before?.isLasting === true ? null : before;
    if (isSwitch) previous = { tunnel: peer.tunnel, record: left, isLasting: false };
    previous ??= this.#addAlternative(peer, tunnel);
    const record = this.#addRecord(peer, tunnel, previous);
    this.nextHops.publish(nextHop, NEXT_HOP_KIND_PEER, record);
    Object.assign(peer, { tunnel, record, mtu: this.#mtu(peer, tunnel), previous });
    for (const gone of [left, before?.record ?? -1]) {
      if (gone >= 0 && gone !== previous?.record) this.peerTable.remove(gone);
    }
  }

  /** Writes a record of what the other end may choose; null where there is no such thing. */
  #addAlternative(peer: Peer, { family, remote, alternative }: PeerTunnel): Peer['previous'] {
    if (alternative === undefined) return null;
    const { tunnelPort = FLANNEL_VXLAN_PORT } = this.#options;
    const tunnel = withPort({ family, remote, ...alternative }, tunnelPort);
    return { tunnel, record: this.#addRecord(peer, tunnel, null), isLasting: true };
  }

  /** Throws TableFullError; then the alternative that was to be its previous has no record. */
  #addRecord(peer: Peer, tunnel: PeerTunnel, previous: Peer['previous']): number {
    const { nextHop } = peer;
    const [ownMac, mtu] = [this.#ownMac(tunnel), this.#mtu(peer, tunnel)];
    try {
      return this.peerTable.add({
        tunnel, nextHop, ownMac, mtu, previous: previous?.record ?? -1,
      });
    } catch (error) {
      if (previous?.isLasting === true) this.peerTable.remove(previous.record);
      throw error;
    }
  }

  /** The MTU of the link that carries the tunnels. */
  get underlayMtu(): number {
    return this.#underlayMtu;
  }

  /** Holds packets for every peer to another MTU of the link. */
  setUnderlayMtu(mtu: number): void {
    this.#underlayMtu = mtu;
    for (const peer of this.peers.values()) this.#holdToMtu(peer);
  }

  /** Holds packets for a peer to what the way there takes; null for no less than the link. Nothing
   * happens to a peer that has gone. */
  setPathMtu(peer: Peer, mtu: number | null): void {
    peer.pathMtu = mtu;
    if (peer.record >= 0) this.#holdToMtu(peer);
  }

  #holdToMtu(peer: Peer): void {
    peer.mtu = this.#mtu(peer, peer.tunnel);
    this.peerTable.setMtu(peer.record, peer.mtu);
  }

  /** A peer without a tunnel is on our link. */
  #mtu({ pathMtu }: Peer, tunnel: PeerTunnel): number {
    const most = tunnel.kind === 'direct' ? null : pathMtu;
    return Math.min(this.#underlayMtu, most ?? Infinity) - tunnelOverhead(tunnel);
  }

  /** The MAC of our own end: what the cluster says of our tunnel, or our default. */
  #ownMac({ family }: Tunnel): string {
    const own = this.local?.tunnels.find((tunnel) => tunnel.family === family);
    return (own !== undefined && 'mac' in own ? own.mac : null) ?? this.#options.defaultMac[family];
  }

  /** True while packets of the kind of tunnel that some peer had before are taken. */
  get isSwitching(): boolean {
    return [...this.peers.values()].some(({ previous }) => previous?.isLasting === false);
  }

  /** From now on packets of each peer's own kind of tunnel are the only ones that are taken, beside
   * those of its alternative. */
  endSwitches(): void {
    for (const peer of this.peers.values()) {
      if (peer.previous?.isLasting !== false) continue;
      this.#forgetPrevious(peer);
      if (peer.tunnel.alternative !== undefined) this.#publishPeer(peer);
    }
  }

  #forgetPrevious(peer: Peer): void {
    if (peer.previous === null) return;
    this.peerTable.forgetPrevious(peer.record);
    this.peerTable.remove(peer.previous.record);
    peer.previous = null;
  }

  #removePeer(key: string): void {
    const peer = this.peers.get(key);
    if (peer === undefined) return;
    this.peers.delete(key);
    this.nextHops.release(peer.nextHop);
    this.#forgetPrevious(peer);
    this.peerTable.remove(peer.record);
    peer.record = -1;
  }

  #claimRoutes(owner: string, claims: Claim[]): void {
    claimByFamily(this.#routes, owner, claims);
  }

  #claimRemotes(owner: string, claims: Claim[]): void {
    claimByFamily(this.#remotes, owner, claims);
  }
}

/** Under which a node's peers are kept. */
function peerKeys(node: string): string[] {
  return [`${node}/IPv4`, `${node}/IPv6`];
}

function claimByFamily(
  tables: Record<Family, ClaimTable>,
  owner: string,
  claims: Claim[],
): void {
  for (const family of ['IPv4', 'IPv6'] as const) {
    tables[family].claim(owner, claims.filter(({ prefix }) => addressFamily(prefix) === family));
  }
}

function same(left: unknown, right: unknown): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}
