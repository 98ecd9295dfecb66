// Routes: from an address in a packet to a next hop id, by longest prefix (prefix.ts). The same
// lookup answers who owns a source address, and which peer an outer source is.

import {
  DIRECTORY_REMOTES_IPV4, DIRECTORY_REMOTES_IPV6, DIRECTORY_ROUTES_IPV4, DIRECTORY_ROUTES_IPV6,
  FAMILY_IPV4, FAMILY_IPV6, NEXT_HOP_NONE, REMOTE_FAMILY, REMOTE_IPV4, REMOTE_IPV6,
} from "../abi/layout";
import { directory } from "../packet";
import { ipDestinationAddress, ipSourceAddress, isIpv4 } from "../wire/ip";
import { prefixFind4, prefixFindAt6 } from "./prefix";

/** Next hop of the packet's destination; NEXT_HOP_NONE where no route matches. */
// @ts-ignore: decorator
@inline
export function routeDestination(packet: usize): i32 {
  return isIpv4(packet)
    ? findIpv4(DIRECTORY_ROUTES_IPV4, ipDestinationAddress(packet))
    : findIpv6(DIRECTORY_ROUTES_IPV6, ipDestinationAddress(packet));
}

/** Next hop that owns the packet's source: where a reply would go (RFC 3704 section 2.2). */
// @ts-ignore: decorator
@inline
export function routeSource(packet: usize): i32 {
  return isIpv4(packet)
    ? findIpv4(DIRECTORY_ROUTES_IPV4, ipSourceAddress(packet))
    : findIpv6(DIRECTORY_ROUTES_IPV6, ipSourceAddress(packet));
}

/** Next hop of the IPv4 address at `address`. */
export function routeIpv4(address: usize): i32 {
  return findIpv4(DIRECTORY_ROUTES_IPV4, address);
}

/** Next hop of the IPv6 address at `address`. */
export function routeIpv6(address: usize): i32 {
  return findIpv6(DIRECTORY_ROUTES_IPV6, address);
}

/** Next hop of the peer whose tunnel sends from `remote`; NEXT_HOP_NONE for a stranger. */
export function routeRemote(remote: usize): i32 {
  const family = <i32>load<u16>(remote, REMOTE_FAMILY);
  if (family == FAMILY_IPV4) return findIpv4(DIRECTORY_REMOTES_IPV4, remote + REMOTE_IPV4);
  if (family == FAMILY_IPV6) return findIpv6(DIRECTORY_REMOTES_IPV6, remote + REMOTE_IPV6);
  return NEXT_HOP_NONE;
}

// @ts-ignore: decorator
@inline
function findIpv4(table: i32, address: usize): i32 {
  return prefixFind4<u16>(<usize>directory(table), bswap<u32>(load<u32>(address)));
}

function findIpv6(table: i32, address: usize): i32 {
  return prefixFindAt6<u16>(<usize>directory(table), address);
}
