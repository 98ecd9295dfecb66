// What the host knows better than the source: the addresses of the pods attached to its node, from
// the moment on that they have them. A source may not know them yet, or never (a file).

import type { Pod } from '../engine/model.ts';
import type { Entry } from './objects.ts';

type PodEntry = Extract<Entry, { kind: 'Pod' }>;

/** A pod of the host's node with its addresses as the host has given them; `attached` is the pod of
 * this name there. Where only one of source and host knows a pod's uid, it goes by its name. */
export function withEndpoint(entry: PodEntry, attached: Pod | undefined): PodEntry {
  if (attached === undefined || !entry.hasNetwork || !isSamePod(entry.pod, attached)) return entry;
  const { uid, addresses } = attached;
  return { ...entry, pod: { ...entry.pod, uid, addresses } };
}

function isSamePod(first: Pod, second: Pod): boolean {
  return first.uid === second.uid || first.uid === '' || second.uid === '';
}
