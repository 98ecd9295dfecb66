// The TAP of tier T3 (docs/decisions/tunnel-gso.md): super-packets for peers leave by it, whole,
// into the node's own stack, which forwards them to the underlay and cuts them as late as it can.
// Nothing is routed to it, so nothing is ever read from it.

import { readFileSync } from 'node:fs';
import type { Family } from '../engine/address.ts';
import { VNET_TUNNEL_HEADER_SIZE } from '../wasm/abi/headers.ts';
import { SystemError } from '../ffi/errno.ts';
import { closeFd } from '../ffi/file.ts';
import { interfaceMac } from '../ffi/interface.ts';
import type { Links } from '../ffi/netlink.ts';
import { readSysctl, writeSysctl } from '../ffi/netns.ts';
import {
  openTun, setTunOffload, setVnetHeaderSize, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6,
  TUN_F_UDP_TUNNEL_GSO, TUN_F_UDP_TUNNEL_GSO_CSUM, TUN_F_USO4, TUN_F_USO6,
} from '../ffi/tun.ts';
import { TierError } from './tier.ts';

const OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO4 | TUN_F_USO6
  | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM;
/** The most that a TAP takes: 65,535 bytes of IP less an Ethernet header. */
const MTU = 65521;
/** How often the stack is asked what it dropped. */
const LOOK_MS = 200;
/** How long the kernel remembers a path's MTU (net.ipv6.route.mtu_expires). */
const NARROW_MS = 600_000;

export class TunnelTap {
  readonly fd: number;
  readonly name: string;
  readonly mac: string;
  /** Families of tunnels whose super-packets it takes. */
  readonly families: Family[];
  /** Why it does not take those of both. */
  readonly limits: string[];
  #watch: NodeJS.Timeout | null = null;

  private constructor(
    fd: number, name: string, mac: string, families: Family[], limits: string[],
  ) {
    this.fd = fd;
    this.name = name;
    this.mac = mac;
    this.families = families;
    this.limits = limits;
  }

  /** Makes and sets up the TAP for tunnels of these families; `pattern` is its name, or has the
   * kernel number it: `probe%d`. Throws a TierError that names what is missing; then there is no
   * TAP. */
  static async open(
    links: Links, pattern: string, families: readonly Family[],
  ): Promise<TunnelTap> {
    const { fd, name } = openTun({ name: pattern, kind: 'tap', vnetHeader: true });
    try {
      if (!setVnetHeaderSize(fd, VNET_TUNNEL_HEADER_SIZE) || !setTunOffload(fd, OFFLOADS)) {
        throw new TierError(`data plane tier T3: ${name} refuses tunnel GSO (Linux 6.17 has it)`);
      }
      const limits = families.flatMap((family) => forwardFrom(name, family));
      const usable = families.filter((family) => family === 'IPv4' || limits.length === 0);
      if (usable.length === 0) throw new TierError(`data plane tier T3: ${limits.join('; ')}`);
      const mac = interfaceMac(name);
      await links.setLink(name, { linkLocalIpv6: false });
      await links.setLink(name, { mtu: MTU, queueLength: 1, up: true });
      return new TunnelTap(fd, name, mac, usable, limits);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /**
   * Tells of packets over IPv6 that are too large for the path: the stack is a router to them,
   * which drops what it may not fragment (RFC 8200 section 5). `onNarrow` hears of it once,
   * `onWide` when the kernel has forgotten it and they may be tried again.
   */
  watch(onNarrow: (packets: number) => void, onWide: () => void): void {
    const seen = tooBigFrom(this.name);
    this.#watch = setInterval(() => {
      const found = tooBigFrom(this.name);
      if (found <= seen) return;
      this.unwatch();
      onNarrow(found - seen);
      this.#watch = setTimeout(() => {
        onWide();
        this.watch(onNarrow, onWide);
      }, NARROW_MS).unref();
    }, LOOK_MS).unref();
  }

  /** Looks no longer. */
  unwatch(): void {
    if (this.#watch !== null) clearTimeout(this.#watch);
    this.#watch = null;
  }

  /** Ends it. */
  close(): void {
    this.unwatch();
    closeFd(this.fd);
  }
}

/** Packets of an interface that were larger than the path that they were forwarded to; 0 where the
 * kernel does not say. */
function tooBigFrom(name: string): number {
  try {
    const counters = readFileSync(`/proc/net/dev_snmp6/${name}`, 'utf8');
    return Number(/^Ip6InTooBigErrors\s+(\d+)$/m.exec(counters)?.[1] ?? 0);
  } catch {
    return 0;
  }
}

/** Lets the node's stack forward what comes from the TAP. Returns why it will not; throws where
 * that leaves nothing of the tier. */
function forwardFrom(name: string, family: Family): string[] {
  if (family === 'IPv6') return forwardIpv6(name);
  // The stack takes the larger of both, and no packet from our own address passes a check.
  const checks = readSysctl('net.ipv4.conf.all.rp_filter');
  if (checks !== '0') {
    throw new TierError('data plane tier T3: net.ipv4.conf.all.rp_filter is '
      + `${checks}, so the node drops what it sends to itself; sysctl -w `
      + 'net.ipv4.conf.all.rp_filter=0');
  }
  try {
    writeSysctl(`net/ipv4/conf/${name}/rp_filter`, 0);
    writeSysctl(`net/ipv4/conf/${name}/accept_local`, 1);
    writeSysctl(`net/ipv4/conf/${name}/forwarding`, 1);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new TierError(`data plane tier T3: ${error.message}`);
  }
  return [];
}

/** The stack forwards IPv6 from this interface alone where it can (Linux 6.17), for to forward it
 * from all changes what a node does with router advertisements. */
function forwardIpv6(name: string): string[] {
  try {
    writeSysctl(`net/ipv6/conf/${name}/force_forwarding`, 1);
    return [];
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (isForwardingIpv6()) return [];
    return [`peers over IPv6 as at T2: ${error.message}; net.ipv6.conf.all.forwarding is not 1`];
  }
}

function isForwardingIpv6(): boolean {
  try {
    return readSysctl('net.ipv6.conf.all.forwarding') === '1';
  } catch (error) {
    if (error instanceof SystemError) return false;
    throw error;
  }
}
