// Hours of churn, squeezed: so many changes of pods for each second of the cluster's time, as fast
// as this machine can, while something goes wrong with the server every few seconds of that time.
//
// Now and then, and at the end, the changes pause until what was delivered is what the server has.
// Then three things must hold: no difference; no object delivered again that had not changed,
// however many lists were read anew; no more memory than after the first of these pauses.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as assert from 'uvu/assert';
import { TestApiServer } from '../../support/api-server/server.ts';
import type { Fault } from '../../support/api-server/faults.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';
import { follow, nodeObject, podObject } from '../../support/followed.ts';
import type { Followed } from '../../support/followed.ts';
import { Random } from '../../support/random.ts';

const CHANGES_PER_SECOND = 50;
const NODES = 50;
const PODS = 2000;
const SECONDS_BETWEEN_FAULTS = 15;
const SECONDS_BETWEEN_PAUSES = 120;
/** Young garbage, and pieces of the heap that are not given back. */
const GROWTH_LIMIT = 16 * 2 ** 20;
const RESOURCES = ['nodes', 'namespaces', 'pods', 'networkpolicies'];

export interface ChurnReport {
  changes: number;
  faults: number;
  upserts: number;
  relists: number;
  /** Bytes of the heap at each pause. */
  heap: number[];
  requests: number;
}

export async function churn(
  version: ServerVersion, seconds: number, seed: number,
): Promise<ChurnReport> {
  const server = new TestApiServer({ version, secondMs: 100, historyLimit: 2000 });
  await server.start();
  server.defineClusterNetworkPolicy();
  const cluster = new Cluster(server, new Random(seed));
  const followed = follow(server, { isTelling: false });
  try {
    return await run(server, cluster, followed, seconds, new Random(seed + 1));
  } finally {
    await followed.stop();
    await server.close();
  }
}

async function run(
  server: TestApiServer, cluster: Cluster, followed: Followed, seconds: number, random: Random,
): Promise<ChurnReport> {
  const { collector, source } = followed;
  const heap: number[] = [];
  let faults = 0;
  let relists = 0;
  await followed.settled();
  for (let second = 1; second <= seconds; second += 1) {
    for (let i = 0; i < CHANGES_PER_SECOND; i += 1) cluster.change();
    await turn();
    if (random.oneIn(SECONDS_BETWEEN_FAULTS)) {
      faults += 1;
      await inject(server, cluster, random);
    }
    if (second % SECONDS_BETWEEN_PAUSES !== 0 && second !== seconds) continue;
    server.faults.clear();
    await followed.settled(30_000);
    heap.push(heapSize());
    relists = source.resources.reduce((sum, { counters }) => sum + counters.relists, 0);
    assert.ok(collector.upserts <= cluster.changes,
      `${collector.upserts} objects delivered for ${cluster.changes} changes`);
    assert.equal(followed.log.filter((line) => line.startsWith('error')), []);
  }
  const growth = (heap.at(-1) ?? 0) - (heap[0] ?? 0);
  assert.ok(growth < GROWTH_LIMIT, `the heap grew by ${growth} bytes: ${heap.join(' ')}`);
  return {
    changes: cluster.changes, faults, upserts: collector.upserts, relists, heap,
    requests: source.resources.reduce((sum, { counters: { checks, lists, watches } }) =>
      sum + checks + lists + watches, 0),
  };
}

/** The server's objects, and the changes of them. */
class Cluster {
  changes = 0;
  readonly #server: TestApiServer;
  readonly #random: Random;
  readonly #pods: string[] = [];
  #made = 0;

  constructor(server: TestApiServer, random: Random) {
    this.#server = server;
    this.#random = random;
    for (let i = 1; i <= NODES; i += 1) server.create('nodes', nodeObject(`n${i}`, i));
    for (let i = 0; i < 10; i += 1) {
      const metadata = { namespace: `space-${i}`, name: 'deny' };
      server.create('namespaces', { metadata: { name: `space-${i}` } });
      server.create('networkpolicies', { metadata, spec: { podSelector: {} } });
    }
    for (let i = 0; i < PODS; i += 1) this.#create();
    this.changes = NODES + 20 + PODS;
  }

  change(): void {
    const random = this.#random;
    const choice = random.below(100);
    this.changes += 1;
    if (choice === 0) {
      const name = `n${random.between(1, NODES)}`;
      this.#server.patch('nodes', name, { metadata: { labels: { x: `${random.below(9)}` } } });
    } else if (choice === 1) {
      this.#server.patch('networkpolicies', `space-${random.below(10)}/deny`, {
        spec: { podSelector: { matchLabels: { app: `app-${random.below(20)}` } } },
      });
    } else if (choice < 25) {
      this.#remove();
      this.#create();
      this.changes += 1;
    } else if (choice < 30) this.#remove();
    else if (choice < 35) this.#create();
    else this.#patch();
  }

  #create(): void {
    this.#made += 1;
    const random = this.#random;
    // Names come again, under another uid.
    const name = `pod-${this.#made % (2 * PODS)}`;
    const key = `space-${this.#made % 10}/${name}`;
    if (this.#server.get('pods', key) !== null) return;
    const address = `10.0.${this.#made >> 8 & 255}.${this.#made & 255}`;
    const node = `n${random.between(1, NODES)}`;
    this.#server.create('pods', podObject(`space-${this.#made % 10}`, name, address, node));
    this.#pods.push(key);
  }

  #remove(): void {
    const at = this.#random.below(this.#pods.length);
    const key = this.#pods[at];
    const last = this.#pods.pop();
    if (key === undefined || last === undefined) return;
    if (key !== last) this.#pods[at] = last;
    this.#server.delete('pods', key);
  }

  #patch(): void {
    const random = this.#random;
    this.#server.patch('pods', random.pick(this.#pods), random.oneIn(3)
      ? { status: { phase: random.pick(['Pending', 'Running', 'Succeeded', 'Failed']) } }
      : { metadata: { labels: { app: `app-${random.below(20)}` } } });
  }
}

async function inject(server: TestApiServer, cluster: Cluster, random: Random): Promise<void> {
  const resource = random.oneIn(2) ? 'pods' : random.pick(RESOURCES);
  const match = { resource, verb: 'watch' };
  const fault = random.pick(FAULTS);
  switch (random.below(10)) {
    case 0: return server.dropWatches('cut');
    case 1: return server.dropWatches('end');
    case 2: return server.restart(random.pick(['now', 'newest']));
    case 3: {
      await server.kill();
      cluster.change();
      if (random.oneIn(2)) server.restart('now');
      return server.start({ rolesAfterMs: random.below(100) });
    }
    case 4: {
      server.freeze();
      cluster.change();
      return server.thaw();
    }
    case 5: {
      server.faults.add({ ...fault, match: { resource, verb: 'list' } });
      return server.restart('now');
    }
    default: {
      const where = random.oneIn(2) ? { afterEvents: random.below(50) }
        : { afterBytes: random.below(50_000) };
      // Events in another order and then a cut: what was overtaken is lost, and nothing shows it.
      // No server does that.
      server.faults.add({ ...fault, ...fault.reversed === undefined ? where : {}, match });
      return server.dropWatches('end', resource);
    }
  }
}

const FAULTS: readonly Fault[] = [
  { then: 'cut' }, { then: 'end' }, { then: 'hang' }, { then: 'garbage' },
  { errorCode: 410 }, { errorCode: 500 }, { copies: 2 }, { copies: 3 }, { reversed: 3 },
  { padBytes: 20_000 }, { status: 429, retryAfterSeconds: 0 }, { status: 500, times: 2 },
  { status: 503, text: 'not ready' }, { delayMs: 50 },
];

/** Lets bytes travel. */
async function turn(): Promise<void> {
  await new Promise((resolve) => { setTimeout(resolve, 1); });
}

let collect: (() => void) | null = null;

/** Bytes in use after a full collection. */
function heapSize(): number {
  if (collect === null) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

export function describeChurn(version: ServerVersion, report: ChurnReport): string {
  const { changes, faults, upserts, relists, requests, heap } = report;
  const mebibytes = heap.map((size) => (size / 2 ** 20).toFixed(0));
  return `\n${version}: ${changes} changes, ${faults} faults, ${upserts} objects delivered, `
    + `${relists} lists anew, ${requests} requests, heap ${mebibytes.join(' ')} MiB`;
}
