// Moves an interface into a pod's namespace and sets it up there. The host does this where it may
// enter namespaces; else the CNI plugin does.

import { Links } from './netlink.ts';
import { Namespace, openNamespace } from './netns.ts';

/** What the interface is to be like. Addresses and routes are prefixes. */
export interface SetUp {
  name: string;
  mtu: number;
  addresses: string[];
  /** A route with `via` takes its gateway as reachable on the interface. */
  routes: { prefix: string; via: string | null }[];
  /** false: the kernel gives it no link-local IPv6 address. */
  linkLocalIpv6: boolean;
}

const LOOPBACK = 'lo';

/** Calls `work` with the links of a namespace that a path names. Throws SystemError. */
export async function withNamespace<T>(
  path: string, work: (links: Links, namespace: Namespace) => Promise<T>,
): Promise<T> {
  const namespace = openNamespace(path);
  try {
    const links = namespace.run(() => new Links());
    try {
      return await work(links, namespace);
    } finally {
      links.close();
    }
  } finally {
    namespace.close();
  }
}

/** Moves `device` from the namespace of `links` into the pod's, and makes it what it is to be. One
 * message moves, renames and sets the MTU: a pod waits for each of them. */
export function moveInterface(
  links: Links, device: string, namespacePath: string, setUp: SetUp,
): Promise<void> {
  const { name, mtu, addresses, routes, linkLocalIpv6 } = setUp;
  return withNamespace(namespacePath, async (inside, { fd }) => {
    await links.setLink(device, { namespaceFd: fd, newName: name, mtu });
    await inside.setLink(name, { linkLocalIpv6, up: true });
    for (const address of addresses) await inside.addAddress(name, address);
    for (const { prefix, via } of routes) {
      const gateway = via === null ? {} : { via, onlink: true };
      await inside.addRoute({ prefix, device: name, ...gateway });
    }
  });
}

/** Brings a namespace's loopback interface up. */
export function setUpLoopback(links: Links): Promise<void> {
  return links.setLink(LOOPBACK, { up: true });
}

/** Says in one line what of an interface is not as it must be, or null. */
export async function findDifference(links: Links, setUp: SetUp): Promise<string | null> {
  const { name, mtu, addresses, routes } = setUp;
  const link = (await links.list()).find((other) => other.name === name);
  if (link === undefined) return `there is no interface ${name}`;
  if (!link.up) return `${name} is down`;
  if (link.mtu !== mtu) return `${name} has MTU ${link.mtu}, not ${mtu}`;
  const present = await links.addresses(name);
  const missing = addresses.find((address) => !present.includes(address));
  if (missing !== undefined) return `${name} lacks the address ${missing}`;
  const table = await links.routes();
  for (const { prefix, via } of routes) {
    const isThere = table.some((route) =>
      route.prefix === prefix && route.device === name && (route.via ?? null) === via);
    if (!isThere) return `the route to ${prefix} on ${name} is missing`;
  }
  return null;
}
