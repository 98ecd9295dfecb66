// A lab whose Culvert nodes run at tiers of the data plane that a test chooses, with traffic
// threads in all pods.

import type { Test } from 'uvu';
import { askAll } from '../../../cli/client.ts';
import type { Host } from '../../../cli/demo/bed.ts';
import type { Family } from '../../../engine/address.ts';
import { PeerReportSchema, type StatusReport } from '../../../engine/model.ts';
import { TIERS, missingFor, probeKernel, type TierName } from '../../../host/tier.ts';
import { needs, printSkip, testNeeding } from '../../support/needs.ts';
import { Lab, type Carriers, type Place } from './lab.ts';
import { Traffic } from './traffic.ts';

export { TIERS };
export type Tier = TierName;

export interface TierLabOptions {
  /** The tier of each node; null is a kernel VXLAN node. Node 1 runs Culvert. */
  tiers: (Tier | null)[];
  carriers: Carriers;
  underlayMtu?: number;
  podMtu?: number;
  /** Further flags of the daemons, node by node. */
  flags?: string[][];
}

/** Adds a test of a tier, or skips it with a printed line where the machine cannot do it. All need
 * a kernel VXLAN device, since that is what the other side is, or might be. */
export function tierTest<T>(
  tier: Tier, suite: Test<T>, name: string, body: Parameters<Test<T>>[1],
): void {
  const missing = needs.tun ? missingFor(tier, probeKernel()) : [];
  if (missing.length === 0) {
    testNeeding('vxlan', suite, name, body);
    return;
  }
  suite.skip(name, body);
  printSkip(name, `the kernel lacks ${missing.join(', ')}`);
}

export class TierLab {
  /** Number of a second pod on node 1. */
  static readonly SAME_NODE = 9;

  readonly lab: Lab;
  readonly #places: Map<number, Place>;
  readonly #traffic: Map<number, Traffic>;
  #stream = 0;

  private constructor(lab: Lab, places: Map<number, Place>, traffic: Map<number, Traffic>) {
    this.lab = lab;
    this.#places = places;
    this.#traffic = traffic;
  }

  static async create(options: TierLabOptions): Promise<TierLab> {
    const { tiers, carriers, flags = [], ...mtus } = options;
    const lab = await Lab.create({
      nodes: tiers.map((tier) => tier === null ? 'kernel' : 'culvert'),
      flags: tiers.map((tier, index) =>
        tier === null ? [] : ['--data-plane-tier', tier, ...flags[index] ?? []]),
      carriers, ...mtus,
    });
    try {
      const places = new Map(lab.places.map((place, index) => [index + 1, place]));
      places.set(TierLab.SAME_NODE, await lab.addPod(1, TierLab.SAME_NODE, options.podMtu));
      const traffic = new Map<number, Traffic>();
      for (const [number, { pod }] of places) traffic.set(number, await Traffic.start(pod));
      await places.get(TierLab.SAME_NODE)?.pod.agent.ask({ verb: 'serve' });
      return new TierLab(lab, places, traffic);
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  pod(number: number): Host {
    return this.#place(number).pod;
  }

  address(number: number, family: Family): string {
    return this.#place(number).address[family];
  }

  /** The traffic thread of a pod. */
  traffic(number: number): Traffic {
    const traffic = this.#traffic.get(number);
    if (traffic === undefined) throw new Error(`there is no pod ${number}`);
    return traffic;
  }

  /** A number for a train that no other has. */
  nextStream(): number {
    this.#stream += 1;
    return this.#stream;
  }

  status(number: number): Promise<StatusReport> {
    return this.lab.status(number);
  }

  /** Packets that a Culvert node has put into its tunnels. */
  async tunnelled(number: number): Promise<number> {
    const { culvert } = this.lab.place(number);
    if (culvert === null) throw new Error(`node ${number} does not run Culvert`);
    const peers = await askAll(culvert.runtimeDirectory, 'peer.list', PeerReportSchema);
    return peers.reduce((sum, { txPackets }) => sum + txPackets, 0);
  }

  async close(): Promise<void> {
    for (const traffic of this.#traffic.values()) await traffic.close();
    await this.lab.close();
  }

  #place(number: number): Place {
    const place = this.#places.get(number);
    if (place === undefined) throw new Error(`there is no pod ${number}`);
    return place;
  }
}
