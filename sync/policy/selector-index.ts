// Finds what selects a pod without trying every selector: an item stands under one handle of its
// namespace selector and one of its pod selector, so that few are left to be tried.

import { addTo, each, takeFrom } from './few.ts';
import type { Few } from './few.ts';
import { matches, selectorHandles } from './selector.ts';
import type { Selector } from './selector.ts';
import type { Labels } from '../fields.ts';

/** Whatever selects pods by their namespace's labels and their own. */
export interface PodSelector {
  namespaces: Selector;
  pods: Selector;
}

export class SelectorIndex<T extends PodSelector> {
  readonly #byHandle = new Map<string, Map<string, Few<T>>>();

  add(item: T): void {
    for (const outer of selectorHandles(item.namespaces)) {
      const inner = getOrMake(this.#byHandle, outer, () => new Map<string, Few<T>>());
      for (const handle of selectorHandles(item.pods)) addTo(inner, handle, item);
    }
  }

  delete(item: T): void {
    for (const outer of selectorHandles(item.namespaces)) {
      const inner = this.#byHandle.get(outer);
      if (inner === undefined) continue;
      for (const handle of selectorHandles(item.pods)) takeFrom(inner, handle, item);
      if (inner.size === 0) this.#byHandle.delete(outer);
    }
  }

  /** What selects pods with these labels in a namespace with those; handles as labelHandles() gives
   * them. */
  find(
    namespace: { labels: Labels; handles: readonly string[] },
    pod: { labels: Labels; handles: readonly string[] },
  ): T[] {
    const found: T[] = [];
    for (const outer of namespace.handles) {
      const inner = this.#byHandle.get(outer);
      if (inner === undefined) continue;
      for (const handle of pod.handles) {
        for (const item of each(inner.get(handle) ?? null)) {
          if (!matches(item.pods, pod.labels)) continue;
          if (matches(item.namespaces, namespace.labels)) found.push(item);
        }
      }
    }
    return found;
  }
}

export function getOrMake<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
