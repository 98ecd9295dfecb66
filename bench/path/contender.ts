// What the contenders of `bench path` have in common: two ends that programs reach each other from,
// and the processes whose work is counted.

import type { GarbageTrace } from './garbage.ts';
import type { Bed, BedNode, Place } from './bed.ts';
import type { Program, Stage } from './program.ts';

/** MTU of a pod behind VXLAN over IPv4 on a link of 1,500 bytes. */
export const VXLAN_POD_MTU = 1450;
/** Network of all pods, as flannel has it unless told otherwise. */
export const POD_NETWORK = '10.244.0.0/16';
/** Packets that a TUN may queue towards the program that reads it, for everybody's TUN. */
export const TUN_QUEUE_LENGTH = 1000;

/** A contender that is set up. Programs at `near` reach those at `far` by `target`. */
export interface Contender {
  bed: Bed;
  near: Stage;
  far: Stage;
  target: string;
  /** Where a Service has `far` as its one backend, by the same ports; absent without Services. */
  service?: string;
  /** The processes that forward packets; none where the kernel does. */
  daemons: Program[];
  /** Of the daemons that have a garbage collector. */
  traces: GarbageTrace[];
}

/** What recipes need to know of the machine. */
export interface Site {
  /** A processor for each node, and both for what is one node alone; empty without pinning. */
  cores: readonly [string, string];
  bothCores: string;
  stop: AbortSignal;
}

/** How to set a contender up. make() throws where this machine cannot have it. */
export interface Recipe {
  name: string;
  make: (site: Site) => Promise<Contender>;
}

/** Network of the pods of a node. */
export function podCidr(number: number): string {
  return `10.244.${number}.0/24`;
}

/** Address of the Service that has the far node's pod as its one backend. */
export const SERVICE_ADDRESS = '10.96.0.10';

/** Address of a node's pod. */
export function podAddress(number: number, pod = 10): string {
  return `10.244.${number}.${pod}`;
}

/** Gives a node's tunnel device an address, and the pod network's packets. */
export async function setUpTunnel(
  { links, number }: Place & Pick<BedNode, 'number'>, device: string, mtu: number,
): Promise<void> {
  await links.setLink(device, { mtu, queueLength: TUN_QUEUE_LENGTH, linkLocalIpv6: false });
  await links.setLink(device, { up: true });
  await links.addAddress(device, `${podAddress(number)}/32`);
  await links.addRoute({ prefix: POD_NETWORK, device });
}

/** Sets a contender up on a bed; the bed goes where that fails. */
export async function withBed(
  bed: Bed, build: (bed: Bed) => Promise<Omit<Contender, 'bed'>>,
): Promise<Contender> {
  try {
    return { bed, ...await build(bed) };
  } catch (error) {
    await bed.close();
    throw error;
  }
}
