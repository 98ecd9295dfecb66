// The kinds of tunnels that a guest's kernel and a Culvert node talk by, and the two nodes.

import type { Family } from '../../../engine/address.ts';
import { addGuest, useTunnel, type GuestPlace, type GuestTunnel } from './guest-node.ts';
import { TRANSFER_BYTES } from './tunnel-checks.ts';
import { FAMILIES, macOf, remotesOf, TunnelLab, VNI, type Place, type Way, type Ways }
  from './tunnel-lab.ts';

export const CULVERT = 1;
const GUEST = 2;
export const LINK_MTU = 1500;
/** Of streams by kinds that differ little from one whose streams are long. */
const SHORT_BYTES = 10 * 1024 * 1024;

/** A kind of tunnel, as Culvert is told of it and as the guest has it; `carrier` is the family of
 * the outer packets, `overhead` what is in front of the inner ones. */
export interface Kind {
  name: string;
  families: readonly Family[];
  carrier: Family;
  way: Way;
  overhead: number;
  tunnel: GuestTunnel;
  /** Of each stream. */
  bytes: number;
}

const local = remotesOf(GUEST);
const remote = remotesOf(CULVERT);
const ends = (family: Family): string => `local ${local[family]} remote ${remote[family]}`;
const macs = (carrier: Family): { own: string; peer: string } =>
  ({ own: macOf(GUEST, carrier), peer: macOf(CULVERT, carrier) });

/** An Ethernet header is 14 bytes, a UDP header, one of VXLAN and one of Geneve 8 each. */
function kind(
  name: string, families: readonly Family[], carrier: Family, way: Way, headers: number,
  tunnel: Omit<GuestTunnel, 'mtu'>, bytes = SHORT_BYTES,
): Kind {
  const overhead = headers + (carrier === 'IPv4' ? 20 : 40);
  return {
    name, families, carrier, way, overhead, bytes,
    tunnel: { ...tunnel, mtu: LINK_MTU - overhead },
  };
}

const geneve = (carrier: Family, vni: number): string =>
  `type geneve id ${vni} remote ${remote[carrier]} dstport 6081`;

export const KINDS: readonly Kind[] = [
  kind('ipip', ['IPv4'], 'IPv4', { kind: 'ipip' }, 0, {
    // As flannel and Calico have it: one device for all peers, which routes tell apart.
    name: 'tunl', link: `type ipip local ${local.IPv4}`, nextHop: remote.IPv4,
  }, TRANSFER_BYTES),
  kind('6in4', ['IPv6'], 'IPv4', { kind: 'ipip' }, 0, {
    name: 'sit1', link: `type sit mode ip6ip ${ends('IPv4')}`,
  }),
  kind('any in IPv6', FAMILIES, 'IPv6', { kind: 'ipip' }, 0, {
    name: 'six', link: `type ip6tnl mode any encaplimit none ${ends('IPv6')}`,
  }),
  kind('geneve with Ethernet', FAMILIES, 'IPv4',
    { kind: 'geneve', vni: VNI, hasEthernet: true }, 30, {
      name: 'gnv4', link: geneve('IPv4', VNI), macs: macs('IPv4'),
    }, TRANSFER_BYTES),
  kind('geneve with Ethernet over IPv6', FAMILIES, 'IPv6',
    { kind: 'geneve', vni: VNI, hasEthernet: true }, 30, {
      name: 'gnv6', link: geneve('IPv6', VNI), macs: macs('IPv6'),
    }),
  kind('geneve with IP', FAMILIES, 'IPv4',
    { kind: 'geneve', vni: 2, hasEthernet: false }, 16, {
      name: 'gni4', link: `${geneve('IPv4', 2)} innerprotoinherit`,
    }),
  kind('vxlan', FAMILIES, 'IPv4', { kind: 'vxlan', port: 4789, vni: 4096 }, 30, {
    name: 'vx4', link: `type vxlan id 4096 ${ends('IPv4')} dstport 4789 nolearning`,
    macs: macs('IPv4'),
  }),
];


/** What is dropped though all is well: what is too big, what the guest says to groups of neighbours
 * by a tunnel that has Ethernet, and what is still on its way when the kind of tunnel changes. */
export const EXPECTED_DROPS =
  /\.(tooBig|wrongMac|noRoute|unknownPeer|wrongTunnel|foreignSource)=/;

/** A Culvert node and a guest on one link. */
export class GuestLab {
  readonly lab: TunnelLab;
  readonly guest: GuestPlace;

  private constructor(lab: TunnelLab, guest: GuestPlace) {
    this.lab = lab;
    this.guest = guest;
  }

  /** Starts both; `flags` are those of `culvert run`. Precondition: guestReason() is null. */
  static async create(flags: string[] = []): Promise<GuestLab> {
    const guests: GuestPlace[] = [];
    const lab = await TunnelLab.create(async (created) => {
      await Promise.all([
        created.addCulvert(CULVERT, flags),
        addGuest(created, GUEST).then((guest) => guests.push(guest)),
      ]);
    });
    const [guest] = guests;
    if (guest === undefined) throw new Error('no guest');
    return new GuestLab(lab, guest);
  }

  get culvert(): Place {
    return this.lab.place(CULVERT);
  }

  /** Both nodes take to a kind. */
  async use({ families, carrier, way, tunnel }: Kind): Promise<void> {
    const ways: Ways = Object.fromEntries(families.map((family) => [family, { way, carrier }]));
    await this.lab.tell(CULVERT, ways, { [GUEST]: ways });
    await useTunnel(this.guest, tunnel, CULVERT, families);
  }
}
