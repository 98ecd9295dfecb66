// Pods that come, change and go at a given rate on a test API server, with watches that are cut at
// random.

import type { Random } from '../random.ts';
import { nodeName } from './big-cluster.ts';
import type { TestApiServer } from './server.ts';

export interface Load {
  perSecond: number;
  /** So many changes in all. */
  changes: number;
  /** Watches are cut once in so many changes, on average; never when left out. */
  cutEvery?: number;
}

const TICK_MS = 10;
const RELABELLED_TIMES = 6;
const OCTET = 250;

/** One change: most are of labels; some pods end, go, come, or hand their address to another. */
function change(server: TestApiServer, random: Random): void {
  const { keys } = server.store.collection('pods');
  const key = random.pick(keys);
  const kind = random.below(RELABELLED_TIMES + 4);
  if (kind < RELABELLED_TIMES) {
    server.patch('pods', key, { metadata: { labels: { app: `app-${random.below(10)}` } } });
  } else if (kind === RELABELLED_TIMES) {
    server.patch('pods', key, { status: { phase: random.pick(['Succeeded', 'Failed']) } });
  } else if (kind === RELABELLED_TIMES + 1) {
    server.delete('pods', key);
  } else {
    const [namespace = 'default'] = key.split('/');
    const ip = `10.200.${random.below(OCTET)}.${1 + random.below(OCTET)}`;
    server.create('pods', {
      metadata: {
        namespace, name: `new-${server.store.version}`,
        labels: { app: `app-${random.below(10)}` },
      },
      spec: { nodeName: nodeName(random.below(server.store.collection('nodes').keys.length)) },
      status: { phase: 'Running', podIP: ip, podIPs: [{ ip }] },
    });
    // With those that just go, as many go as come.
    if (random.oneIn(2)) server.delete('pods', random.pick(keys));
  }
}

/** Makes the changes; resolves when all have been made. Returns how often watches were cut. */
export async function play(server: TestApiServer, { perSecond, changes, cutEvery }: Load,
  random: Random): Promise<number> {
  const startMs = performance.now();
  let cuts = 0;
  for (let made = 0; made < changes;) {
    const due = ((performance.now() - startMs) / 1000) * perSecond;
    for (; made < Math.min(due, changes); made += 1) {
      change(server, random);
      if (cutEvery === undefined || !random.oneIn(cutEvery)) continue;
      server.dropWatches(random.pick(['cut', 'end']),
        random.oneIn(2) ? undefined : 'pods');
      cuts += 1;
    }
    await new Promise((resolve) => { setTimeout(resolve, TICK_MS); });
  }
  return cuts;
}
