// A node of a tunnel lab whose kernel is Debian's, with every kind of tunnel: a guest of QEMU's
// between the switch and its pod, routing.

import { closeFd } from '../../../ffi/file.ts';
import { openTun } from '../../../ffi/tun.ts';
import type { Family } from '../../../engine/address.ts';
import type { Host } from '../../../cli/demo/bed.ts';
import { Guest } from '../../support/qemu.ts';
import { basesOf, ETHERNET_SIZE, GATEWAY, podAddressesOf, podCidrsOf, POD_DEVICE, remotesOf,
  setUpPod, type Place, type TunnelLab } from './tunnel-lab.ts';

const MTU = 1500;
const BITS = { IPv4: 32, IPv6: 128 };
const FLAG = { IPv4: '-4', IPv6: '-6' };

export interface GuestPlace extends Place {
  guest: Guest;
}

function openTap({ namespace }: Host, name: string): number {
  return namespace.run(() => openTun({ name, kind: 'tap' })).fd;
}

/** Boots a guest as node `number`. Precondition: guestReason() is null. */
export async function addGuest(lab: TunnelLab, number: number): Promise<GuestPlace> {
  const pod = lab.bed.addHost(`pod-${number}`);
  const address = podAddressesOf(number);
  const underlay = openTap(lab.bed.hub, `guest${number}`);
  const inside = openTap(pod, 'eth0');
  let guest;
  try {
    guest = await Guest.boot(lab.bed.folder, [
      { fd: underlay, mac: '02:00:00:00:02:01' }, { fd: inside, mac: '02:00:00:00:02:02' },
    ]);
  } finally {
    closeFd(underlay);
    closeFd(inside);
  }
  const booted = guest;
  lab.onClose(() => booted.close());
  await lab.plugIn(`guest${number}`, MTU);
  await setUpPod(pod, address, MTU);
  const remote = remotesOf(number);
  await booted.run(
    'echo 1 > /proc/sys/net/ipv4/ip_forward',
    'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding',
    // Each error is to be sent, however soon after another.
    'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit',
    'echo 0 > /proc/sys/net/ipv6/icmp/ratelimit',
    '/sbin/ip link set lo up',
    `/sbin/ip addr add ${remote.IPv4}/24 dev eth0`,
    `/sbin/ip addr add ${remote.IPv6}/64 dev eth0 nodad`,
    '/sbin/ip link set eth0 up',
    `/sbin/ip addr add ${GATEWAY.IPv4}/32 dev eth1`,
    '/sbin/ip link set eth1 addrgenmode none',
    `/sbin/ip addr add ${GATEWAY.IPv6}/64 dev eth1 nodad`,
    '/sbin/ip link set eth1 up',
    `/sbin/ip route add ${address.IPv4}/32 dev eth1`,
    `/sbin/ip -6 route add ${address.IPv6}/128 dev eth1`,
  );
  const place = {
    number, node: null, pod, address, device: POD_DEVICE, linkHeader: ETHERNET_SIZE, guest: booted,
  };
  lab.places.set(number, place);
  return place;
}

/** A tunnel device of the guest's: what `ip link add NAME` takes behind its name; the MACs of both
 * ends where it has Ethernet headers; the next hop where one device leads to many peers. */
export interface GuestTunnel {
  name: string;
  link: string;
  mtu: number;
  macs?: { own: string; peer: string };
  nextHop?: string;
}

/** Makes a tunnel device and leads the peer's pods into it, as flannel does: a next hop is on the
 * link, whatever address it has. A device that is there is taken as it is. */
export async function useTunnel(
  { guest, number }: GuestPlace, tunnel: GuestTunnel, peer: number, families: readonly Family[],
): Promise<void> {
  const { name, link, mtu, macs, nextHop } = tunnel;
  const address = macs === undefined ? '' : ` address ${macs.own}`;
  await guest.run(
    `[ -e /sys/class/net/${name} ] || /sbin/ip link add ${name}${address} mtu ${mtu} ${link}`,
    `/sbin/ip link set ${name} addrgenmode none`,
    `/sbin/ip link set ${name} up`,
  );
  for (const family of families) {
    const ip = `/sbin/ip ${FLAG[family]}`;
    const via = nextHop ?? basesOf(peer)[family];
    const own = `${basesOf(number)[family]}/${BITS[family]}`;
    const dad = family === 'IPv6' ? ' nodad' : '';
    const hop = macs === undefined && nextHop === undefined ? '' : ` via ${via} onlink`;
    await guest.run(
      `${ip} addr replace ${own} dev ${name}${dad}`,
      ...(macs === undefined ? []
        : [`${ip} neigh replace ${via} lladdr ${macs.peer} dev ${name} nud permanent`]),
      // A route with a next hop does not replace one without (ip-route(8), IPv6).
      `${ip} route flush exact ${podCidrsOf(peer)[family]}`,
      `${ip} route add ${podCidrsOf(peer)[family]}${hop} dev ${name}`,
    );
  }
}
