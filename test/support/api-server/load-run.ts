// A cluster whose pods change all the time, on a server in a process of its own, and a sidecar that
// follows it while its watches are cut.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Follower, truthOf } from '../follower.ts';
import { nodeName } from './big-cluster.ts';
import { ApiServerProcess } from './process.ts';
import { Target } from './target.ts';

export interface LoadReport {
  cuts: number;
  /** Lists and WatchLists after the first ones. */
  relists: number;
  /** What went wrong, as the reflectors counted it. */
  errors: Record<string, number>;
  /** Changes that the host was told of. */
  changes: number;
  /** From the last change to the right state, in ms. */
  settledMs: number;
  /** Bytes of the heap that are in use, after a quarter of the changes and after all. */
  heapBytes: [number, number];
}

const SIZE = [
  '--nodes', '50', '--pods', '2000', '--policies', '200', '--namespaces', '10',
  // A reader that is slow finds its place again.
  '--history', '200000',
];
const LIMIT_MS = 60_000;
const FOLLOWED: readonly [string, string, string][] = [
  ['/api/v1/nodes', 'v1', 'Node'], ['/api/v1/namespaces', 'v1', 'Namespace'],
  ['/api/v1/pods', 'v1', 'Pod'],
  ['/apis/networking.k8s.io/v1/networkpolicies', 'networking.k8s.io/v1', 'NetworkPolicy'],
];

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function heap(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

async function truth(target: Target, local: string): Promise<string> {
  const all: object[] = [];
  for (const [path, apiVersion, kind] of FOLLOWED) {
    const { items = [] } = (await target.ask('GET', path)).body;
    all.push(...items.map((item) => ({ ...item, apiVersion, kind })));
  }
  return truthOf(all, local);
}

function errorsOf(follower: Follower): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const { counters } of follower.source.resources) {
    for (const [name, count] of Object.entries(counters.errors)) {
      sum[name] = (sum[name] ?? 0) + count;
    }
  }
  return sum;
}

/** Plays `changes` changes and compares at the end. */
export async function runLoad(changes: number, perSecond: number, cutEvery: number)
  : Promise<LoadReport> {
  const server = await ApiServerProcess.start(...SIZE);
  const target = new Target(server.kubeconfig);
  const local = nodeName(0);
  const follower = new Follower({ kubeconfig: server.kubeconfig, local,
    timing: { backoffFirstMs: 5, backoffCapMs: 100, stableMs: 500, watchSeconds: 60 } });
  try {
    const first = await truth(target, local);
    await follower.settled(() => first, LIMIT_MS);
    const quarter = Math.floor(changes / 4);
    let cuts = await server.do('load', { perSecond, changes: quarter, cutEvery }, 1) as number;
    const early = heap();
    cuts += await server.do('load',
      { perSecond, changes: changes - quarter, cutEvery }, 2) as number;
    const last = await truth(target, local);
    const settledMs = await follower.settled(() => last, LIMIT_MS);
    const [fault] = follower.host.faults;
    if (fault !== undefined) throw new Error(`a change that no host could apply: ${fault}`);
    return {
      cuts, relists: follower.sum('relists'), errors: errorsOf(follower),
      changes: follower.host.changes, settledMs, heapBytes: [early, heap()],
    };
  } finally {
    await follower.stop();
    await target.close();
    await server.close();
  }
}
