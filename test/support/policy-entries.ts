// Kubernetes objects as the sidecar keeps them, for tests that make them.

import { project, type Entry } from '../../sync/objects.ts';

const known = new WeakMap<object, Entry | null>();

/** Reads objects that an API server would take. Precondition: an object never changes. */
export function entriesOf(objects: readonly object[]): Entry[] {
  return objects.map(entryOf).filter((entry) => entry !== null);
}

function entryOf(object: object): Entry | null {
  const before = known.get(object);
  if (before !== undefined) return before;
  const { entry, problems } = project(object, () => '');
  if (problems.length > 0) throw new Error(`${problems.join('\n')}\n${JSON.stringify(object)}`);
  known.set(object, entry);
  return entry;
}
