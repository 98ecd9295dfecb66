// How large the tables of a node's core must be for a plan: no profile, but what these objects
// need, since offline there is a core for each node of the cluster.

import type { Limits, PrefixLimits } from '../../engine/memory-map.ts';
import type { PolicyChange, RuleSet } from '../../engine/model.ts';

/** What a core has to hold. */
export interface Load {
  pods: number;
  peers: number;
  /** Addresses of pods and nodes. */
  addresses: readonly string[];
  change: Pick<PolicyChange, 'identities' | 'ruleSets'>;
  slots: number;
  flows: number;
  verdicts: number;
}

/** Beyond what is counted: fixed ids, default routes. */
const SPARE = 64;
/** Poptrie nodes that an address of its own may take: (32 - 18) / 6 and (128 - 18) / 6 levels,
 * twice over, since a change is built beside what it replaces. */
const NODES_PER_PREFIX = { ipv4: 8, ipv6: 40 };
const LEAVES_PER_NODE = 4;
const SMALLEST_ARENA = 64 * 1024;

export function limitsFor(load: Load): Limits {
  const isIpv6 = (text: string): boolean => text.includes(':');
  const identities = load.change.identities.map(([prefix]) => prefix);
  const count = (texts: readonly string[], ipv6: boolean): number =>
    texts.filter((text) => isIpv6(text) === ipv6).length;
  return {
    workers: 1,
    slots: load.slots,
    nextHops: load.peers + load.pods + SPARE,
    peers: (load.peers * 2) + SPARE,
    devices: load.pods + SPARE,
    routesIpv4: prefixLimits(count(load.addresses, false), NODES_PER_PREFIX.ipv4),
    routesIpv6: prefixLimits(count(load.addresses, true), NODES_PER_PREFIX.ipv6),
    remotesIpv4: prefixLimits(load.peers, NODES_PER_PREFIX.ipv4),
    remotesIpv6: prefixLimits(0, NODES_PER_PREFIX.ipv6),
    policy: {
      identitiesIpv4: prefixLimits(count(identities, false), NODES_PER_PREFIX.ipv4),
      identitiesIpv6: prefixLimits(count(identities, true), NODES_PER_PREFIX.ipv6),
      flows: load.flows,
      fragments: 64,
      verdicts: load.verdicts,
      arenaBytes: SMALLEST_ARENA + (load.change.ruleSets.reduce((sum, ruleSet) =>
        sum + ruleSetBytes(ruleSet), 0) * 2),
    },
    services: { fronts: 0, backends: 0 },
  };
}

function prefixLimits(prefixes: number, nodesPerPrefix: number): PrefixLimits {
  const nodes = (prefixes + SPARE) * nodesPerPrefix;
  return { prefixes: prefixes + SPARE, nodes, leaves: nodes * LEAVES_PER_NODE };
}

/** At most: a hash is at least half empty, and larger where it would probe far. */
function ruleSetBytes({ programs, entries }: RuleSet): number {
  const slots = 2 ** Math.ceil(Math.log2((entries.length * 4) + 4));
  return (slots * 8) + programs.reduce((sum, program) => sum + 32 + (program.length * 8), 64);
}
