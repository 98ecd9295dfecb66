// What the host knows better than the source: the addresses of the pods attached to its node, from
// the moment on that they have them. A source may not know them yet, or never (a file).

import type { Pod } from '../engine/model.ts';
import type { Entry } from './objects.ts';

/** The objects, with the addresses of the node's pods as the host has given them. Where only one of
 * source and host knows a pod's uid, it goes by its name. */
export function withLocalEndpoints(
  entries: readonly Entry[], local: string, endpoints: readonly Pod[],
): readonly Entry[] {
  if (endpoints.length === 0) return entries;
  const byName = new Map(endpoints.map((pod) => [`${pod.namespace}/${pod.name}`, pod]));
  return entries.map((entry) => {
    if (entry.kind !== 'Pod' || entry.nodeName !== local || !entry.hasNetwork) return entry;
    const attached = byName.get(entry.key);
    if (attached === undefined || !isSamePod(entry.pod, attached)) return entry;
    const { uid, addresses } = attached;
    return { ...entry, pod: { ...entry.pod, uid, addresses } };
  });
}

function isSamePod(first: Pod, second: Pod): boolean {
  return first.uid === second.uid || first.uid === '' || second.uid === '';
}
