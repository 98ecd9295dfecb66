// What a pod's interface is to be like, for whoever sets it up: the host (a namespace of its own
// machine) or the CNI plugin.

import { addressFamily, hostPrefix } from './address.ts';
import type { Endpoint, InterfaceSetUp } from './model.ts';

/** Gateways that a TAP's default routes name; the core answers for them (neighbour.ts). */
const TAP_GATEWAY = { IPv4: '169.254.1.1', IPv6: 'fe80::1' };
const DEFAULT_ROUTE = { IPv4: '0.0.0.0/0', IPv6: '::/0' };

type Needed = Pick<Endpoint, 'device' | 'interfaceName' | 'addresses' | 'mtu'>;

/** Host addresses and default routes: whatever the pod sends comes to the core, packets to pods of
 * the same node too. A TUN needs no gateway, for there is nobody else at its other end. */
export function podInterface({ device, interfaceName, addresses, mtu }: Needed): InterfaceSetUp {
  const isTap = device === 'tap';
  const families = (['IPv4', 'IPv6'] as const)
    .filter((family) => addresses.some((address) => addressFamily(address) === family));
  return {
    name: interfaceName,
    mtu,
    addresses: addresses.map(hostPrefix),
    routes: families.map((family) =>
      ({ prefix: DEFAULT_ROUTE[family], via: isTap ? TAP_GATEWAY[family] : null })),
    linkLocalIpv6: isTap,
  };
}
