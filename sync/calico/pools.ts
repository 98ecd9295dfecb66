// How a cluster of Calico's carries packets of pods: its IPPools say it, for each pod network of
// theirs, or the operator does.
//
// A pool has `vxlanMode` and `ipipMode`, each Always, CrossSubnet or Never; at most one of them is
// not Never. They are custom resources, of crd.projectcalico.org/v1 or, where the API server has
// Calico's own API, of projectcalico.org/v3; their fields are the same.

import * as v from 'valibot';
import { prefixHolds } from '../../engine/address.ts';
import { Prefix, maybe } from '../fields.ts';
import type { ObjectReader } from '../node-writer.ts';
import type { Readable } from '../poll.ts';

/** How packets of pods go. `none` is as they are, by routes that the network has. */
export const CALICO_MODES = [
  'vxlan', 'vxlan-cross-subnet', 'ipip', 'ipip-cross-subnet', 'none',
] as const;
export type CalicoMode = (typeof CALICO_MODES)[number];

export interface Pool {
  name: string;
  cidr: string;
  mode: CalicoMode;
}

/** What we know of the cluster beside its Nodes: its pools, empty where they are not known, and
 * what the operator says instead, null where nothing. */
export interface CalicoView {
  mode: CalicoMode | null;
  pools: readonly Pool[];
}

/** Pools change when an operator changes them. */
const PERIOD_MS = 300_000;
const PATHS = [
  '/apis/crd.projectcalico.org/v1/ippools', '/apis/projectcalico.org/v3/ippools',
];
const NOT_FOUND = 404;
const FORBIDDEN = 403;

const Mode = maybe(v.string());
const PoolsSchema = v.object({
  items: v.array(v.object({
    metadata: v.object({ name: v.string() }),
    spec: v.object({ cidr: Prefix, vxlanMode: Mode, ipipMode: Mode }),
  })),
});

/** What is said of a prefix, and who says it: a pool that holds it, or the operator; null for
 * nobody. */
export function modeOf(
  { mode, pools }: CalicoView, prefix: string,
): { mode: CalicoMode; by: string } | null {
  if (mode !== null) return { mode, by: '--calico-mode' };
  const [base = ''] = prefix.split('/');
  const pool = pools.find(({ cidr }) => prefixHolds(cidr, base));
  return pool === undefined ? null : { mode: pool.mode, by: `IPPool ${pool.name}` };
}

/** The pools of an API server. */
export function poolSource(client: ObjectReader): Readable<Pool[]> {
  return {
    periodMs: PERIOD_MS,
    read: async (signal) => {
      for (const path of PATHS) {
        const pools = await readPools(path, client, signal);
        if (pools !== null) return pools;
      }
      throw new Error('there are no IPPools in this cluster (crd.projectcalico.org): peers are '
        + 'reached as their annotations say');
    },
  };
}

/** Null where the API server does not have the resource. */
async function readPools(
  path: string, client: ObjectReader, signal: AbortSignal,
): Promise<Pool[] | null> {
  try {
    const parsed = v.safeParse(PoolsSchema, await client.get(path, {}, signal));
    if (!parsed.success) throw new Error('the IPPools cannot be read');
    return parsed.output.items.map(({ metadata: { name }, spec }) =>
      ({ name, cidr: spec.cidr, mode: poolMode(spec) }));
  } catch (error) {
    const status: unknown = Reflect.get(Object(error), 'status');
    if (status === NOT_FOUND) return null;
    if (status !== FORBIDDEN) throw error;
    throw new Error('forbidden: verb list, resource ippools: peers are reached as their '
      + 'annotations say, or as --calico-mode does', { cause: error });
  }
}

function poolMode(
  { vxlanMode, ipipMode }: { vxlanMode?: string | undefined; ipipMode?: string | undefined },
): CalicoMode {
  if (vxlanMode === 'Always') return 'vxlan';
  if (vxlanMode === 'CrossSubnet') return 'vxlan-cross-subnet';
  if (ipipMode === 'Always') return 'ipip';
  return ipipMode === 'CrossSubnet' ? 'ipip-cross-subnet' : 'none';
}
