// What is known of the cluster beside its objects, put together from those who know it: the host,
// net-conf.json, Calico's pools or the operator.

import type { NodeFacts } from '../engine/model.ts';
import type { NetConf } from '../engine/net-conf.ts';
import type { CalicoView } from './calico/pools.ts';
import { PLAIN_VIEW } from './tunnels.ts';
import type { ClusterView } from './tunnels.ts';

/** Whose nodes the others are, and ours is to be one of; with `none` they are reached as they
 * say. */
export const PROFILES = ['flannel', 'calico', 'none'] as const;
export type Profile = (typeof PROFILES)[number];

export class ViewKeeper {
  readonly #tell: (view: ClusterView) => void;
  #view: ClusterView;
  #told = '';

  /** `tell` hears of the view whenever it changes, and at once. */
  constructor(profile: Profile, tell: (view: ClusterView) => void) {
    this.#tell = tell;
    this.#view = {
      ...PLAIN_VIEW,
      ...profile === 'flannel' ? { calico: null } : {},
      ...profile === 'calico' ? { flannel: null } : {},
    };
    this.#set({});
  }

  facts({ underlay }: Pick<NodeFacts, 'underlay'>): void {
    this.#set({ links: underlay.map(({ prefix }) => prefix) });
  }

  netConf({ type, port, isDirectRouting }: NetConf): void {
    this.#set({ flannel: { type, port: type === 'udp' ? port : null, isDirectRouting } });
  }

  calico(calico: CalicoView): void {
    this.#set({ calico });
  }

  #set(change: Partial<ClusterView>): void {
    this.#view = { ...this.#view, ...change };
    const text = JSON.stringify(this.#view);
    if (text === this.#told) return;
    this.#told = text;
    this.#tell(this.#view);
  }
}
