// Whole contents for a Sender, for tests that say what a host shall have without objects.

import type { PolicyChange } from '../../engine/model.ts';
import type { Change } from '../../sync/outbox.ts';
import { partsOf } from '../../sync/policy/change.ts';
import type { Sender } from '../../sync/send.ts';
import { podKey, type Content } from '../../sync/translate.ts';

/** Policy beside the content: what has changed since the update before, and all of it. */
export interface PolicyState {
  change: PolicyChange | null;
  whole(): PolicyChange;
}

/** Tells a sender what differs from one content to the next. */
export class ContentFeed {
  readonly #sender: Sender;
  #content: Content | null = null;

  constructor(sender: Sender) {
    this.#sender = sender;
  }

  /** Sets what the host shall have. False where that is what was wanted already. */
  update(content: Content, policy?: PolicyState): boolean {
    const { local, nodes, pods } = content;
    const before = this.#content;
    const change = difference(before ?? { local, nodes: [], pods: [] }, content);
    const isSame = Object.values(change).every((list) => list.length === 0);
    if (before !== null && isSame && !policy?.change) return false;
    this.#content = content;
    this.#sender.tell(
      policy?.change ? { ...change, policy: policy.change } : change,
      () => ({
        local, nodes, pods, policy: policy ? [...partsOf(policy.whole())] : null, services: null,
      }));
    return true;
  }
}

/** What changed. Nodes and pods that differ come whole. */
export function difference(previous: Content, next: Content): Omit<Change, 'policy'> {
  const nodes = changed(previous.nodes, next.nodes, ({ name }) => name);
  const pods = changed(previous.pods, next.pods, podKey);
  return {
    nodes: nodes.fresh,
    removedNodes: nodes.gone.map(({ name }) => name),
    pods: pods.fresh,
    removedPods: pods.gone.map(({ namespace, name }) => ({ namespace, name })),
  };
}

function changed<T>(
  previous: readonly T[], next: readonly T[], key: (item: T) => string,
): { fresh: T[]; gone: T[] } {
  const before = new Map(previous.map((item) => [key(item), JSON.stringify(item)]));
  const after = new Set(next.map(key));
  return {
    fresh: next.filter((item) => before.get(key(item)) !== JSON.stringify(item)),
    gone: previous.filter((item) => !after.has(key(item))),
  };
}
