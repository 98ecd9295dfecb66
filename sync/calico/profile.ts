// The Calico profile: has our Node say what Calico's nodes must know of it, and keeps it so.
//
//   IPPools or --calico-mode, the host's facts, our Node -----> annotations ----> node-writer.ts
//
// Pod networks are those of spec.podCIDRs: a cluster whose nodes get blocks from Calico's own IPAM
// is told apart by having none there.

import { addressFamily, prefixBase, prefixHolds } from '../../engine/address.ts';
import type { Family } from '../../engine/address.ts';
import type { NodeFacts } from '../../engine/model.ts';
import { NodeWriter } from '../node-writer.ts';
import type { Author, NodeWriterOptions, Plan } from '../node-writer.ts';
import type { OwnNode } from '../own-node.ts';
import { follow } from '../poll.ts';
import type { Readable } from '../poll.ts';
import { CALICO_SIGNS, findRivalDevice } from '../rival.ts';
import { CALICO_IS_UP, FAMILIES, PREFIX, nodeAnnotations } from './annotations.ts';
import type { OwnEnd } from './annotations.ts';
import { modeOf } from './pools.ts';
import type { CalicoMode, CalicoView, Pool } from './pools.ts';

export interface CalicoProfileOptions extends Omit<NodeWriterOptions, 'findDevice'> {
  /** As the operator says, and null to ask the pools. */
  mode: CalicoMode | null;
  pools: Readable<Pool[]>;
  /** Told what is known of the cluster, whenever that changes. */
  onView?(view: CalicoView): void;
  findDevice?(): string | null;
}

type HostFacts = Pick<NodeFacts, 'underlay' | 'podNetworks'>;

export class CalicoProfile implements Author {
  readonly name = 'calico';
  readonly prefix = PREFIX;
  readonly up = CALICO_IS_UP;
  readonly signs = CALICO_SIGNS;
  readonly #options: CalicoProfileOptions;
  readonly #writer: NodeWriter;
  #facts: HostFacts | null = null;
  #view: CalicoView;
  /** The pools have been asked for, whatever came of it. */
  #hasAsked: boolean;
  #poolProblem = '';

  constructor(options: CalicoProfileOptions) {
    this.#options = options;
    this.#view = { mode: options.mode, pools: [] };
    this.#hasAsked = options.mode !== null;
    const findDevice = options.findDevice ?? (() => findRivalDevice(CALICO_SIGNS));
    this.#writer = new NodeWriter(this, { ...options, findDevice });
  }

  /** What the host is set up with. */
  facts(facts: HostFacts): void {
    this.#facts = facts;
    this.#writer.ring();
  }

  /** Our Node, as the API server has it now; null where it has none. */
  node(object: object | null): void {
    this.#writer.node(object);
  }

  /** Works until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    this.#options.onView?.(this.#view);
    const asking = this.#options.mode !== null ? null : follow(this.#options.pools, {
      value: (pools) => this.#take(pools, ''),
      problem: (problem) => this.#take(this.#view.pools, problem),
    }, signal);
    await Promise.all([asking, this.#writer.run(signal)]);
  }

  plan(node: OwnNode | null, problems: string[]): Plan | null {
    const facts = this.#facts;
    if (this.#poolProblem !== '') problems.push(this.#poolProblem);
    if (facts === null || node === null || !this.#hasAsked) return null;
    const ends: Partial<Record<Family, OwnEnd>> = {};
    for (const family of FAMILIES) {
      const podCidr = node.podCidrs.find((prefix) => addressFamily(prefix) === family);
      const own = facts.underlay.find((item) => item.family === family);
      if (podCidr === undefined || own === undefined) continue;
      if (!facts.podNetworks.some((prefix) => prefixHolds(prefix, prefixBase(podCidr)))) {
        problems.push(`our Node's ${podCidr} is not part of the host's pod networks, which are `
          + `${facts.podNetworks.join(', ') || 'none'}: set podNetworks of culvert run`);
        continue;
      }
      // Where nobody says how the cluster does it, we are ready for either.
      const mode = modeOf(this.#view, podCidr)?.mode ?? null;
      const has = (kind: string): boolean => mode === null || mode.startsWith(kind);
      ends[family] = {
        address: own.address, link: own.prefix, podCidr, hasVxlan: has('vxlan'),
        hasIpip: has('ipip'),
      };
    }
    if (node.podCidrs.length === 0) {
      problems.push('our Node has no pod network (spec.podCIDRs): blocks of Calico\'s own IPAM are '
        + 'not known here');
    }
    if (Object.keys(ends).length === 0) return null;
    return { annotations: nodeAnnotations(ends), onWritten: () => {} };
  }

  #take(pools: readonly Pool[], problem: string): void {
    this.#view = { ...this.#view, pools };
    this.#poolProblem = problem;
    this.#hasAsked = true;
    this.#options.onView?.(this.#view);
    this.#writer.ring();
  }
}
