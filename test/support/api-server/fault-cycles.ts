// Cycles of faults: in each the cluster changes while something goes wrong, and at its end the host
// has what a fresh reading gives.

import { Follower, truthOf } from '../follower.ts';
import { Random } from '../random.ts';
import { Churn, LOCAL } from './churn.ts';
import type { Fault } from './faults.ts';
import { clusterNetworkPolicyDefinition, customType, type ServerVersion } from './resources.ts';
import { ENGINE_TOKEN, READER_RULES, TestApiServer } from './server.ts';

const RESOURCES = ['nodes', 'namespaces', 'pods', 'networkpolicies', 'clusternetworkpolicies'];
/** Longer than any wait of the reflector, on a machine that is busy. */
const LIMIT_MS = 40_000;
const PAD_BYTES = 300_000;
const SKEW_MS = 86_400_000;
const DOWN_MS = 60;
const ROLES_MS = 80;
const SLOW_BYTES_PER_SECOND = 60_000;

/** One kind of fault; `events` is a number of events after which a stream breaks. */
type Inject = (world: World, events: number) => Promise<void> | void;

interface World {
  server: TestApiServer;
  churn: Churn;
  random: Random;
  resource: string;
  /** Resolves when the host has what the server has. */
  settle(): Promise<unknown>;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms); });
}

/** The next watch of the resource meets the fault; the one that runs is ended for it. */
function nextWatch(fault: Fault): Inject {
  return ({ server, resource }, events) => {
    const after = fault.errorCode !== undefined || fault.then !== undefined
      ? { afterEvents: events } : {};
    server.faults.add({ ...fault, ...after, match: { resource, verb: 'watch' } });
    server.dropWatches('end', resource);
  };
}

/** The next requests for a list meet the fault, and a list is needed: no history is left. */
function nextList(fault: Fault): Inject {
  return ({ server, resource }) => {
    const { requests } = server;
    server.faults.add({ ...fault, match: { resource, verb: 'list' } });
    server.faults.add({ times: 2, status: 422, reason: 'Invalid',
      match: { resource, verb: 'watch', watchList: true } });
    server.restart('now');
    requests.length = 0;
  };
}

/** Every fault by name. */
export const FAULTS: Record<string, Inject> = {
  'all watches cut': ({ server }) => { server.dropWatches('cut'); },
  'all watches ended': ({ server }) => { server.dropWatches('end'); },
  'cut after events': nextWatch({ then: 'cut' }),
  'ended after events': nextWatch({ then: 'end' }),
  'half-open after events': nextWatch({ then: 'hang' }),
  'no JSON after events': nextWatch({ then: 'garbage' }),
  'ERROR 410 after events': nextWatch({ errorCode: 410 }),
  'ERROR 500 after events': nextWatch({ errorCode: 500 }),
  'ERROR 504 after events': nextWatch({ errorCode: 504 }),
  'cut within an event': ({ server, resource, random }) => {
    server.faults.add({ afterBytes: 1 + random.below(3000), then: 'cut',
      match: { resource, verb: 'watch' } });
    server.dropWatches('end', resource);
  },
  'ended within an event': ({ server, resource, random }) => {
    server.faults.add({ afterBytes: 1 + random.below(3000), then: 'end',
      match: { resource, verb: 'watch' } });
    server.dropWatches('end', resource);
  },
  'each event twice': nextWatch({ copies: 2 }),
  'events in another order': nextWatch({ reversed: 3 }),
  'huge objects': nextWatch({ padBytes: PAD_BYTES }),
  'slow watch': nextWatch({ bytesPerSecond: SLOW_BYTES_PER_SECOND }),
  'watch answered 429': nextWatch({ status: 429, reason: 'TooManyRequests', times: 2,
    retryAfterSeconds: 1 }),
  'watch answered 500': nextWatch({ status: 500, times: 3 }),
  'watch answered 503 text': nextWatch({ status: 503, text: 'apiserver not ready', times: 2 }),
  'watch answered 403 for a while': nextWatch({ status: 403, reason: 'Forbidden', times: 3 }),
  'watch answered late': nextWatch({ delayMs: 300 }),
  'watch answered too late': nextWatch({ delayMs: 1500 }),
  'token refused for a while': async ({ server, churn }) => {
    const user = server.tokens.get(ENGINE_TOKEN);
    server.tokens.delete(ENGINE_TOKEN);
    server.dropWatches('cut');
    churn.step();
    await pause(DOWN_MS);
    if (user !== undefined) server.tokens.set(ENGINE_TOKEN, user);
  },
  'server stopped and continued': async ({ server, churn }) => {
    server.freeze();
    churn.step();
    await pause(DOWN_MS);
    server.thaw();
  },
  'history gone': ({ server }) => { server.restart('now'); },
  'history gone but the newest': ({ server }) => { server.restart('newest'); },
  'list answered 410': nextList({ status: 410, reason: 'Expired' }),
  'list answered 429': nextList({ status: 429, reason: 'TooManyRequests', times: 2 }),
  'list answered 500': nextList({ status: 500, times: 2 }),
  'list cut': nextList({ afterBytes: 700, then: 'cut' }),
  'list ended early': nextList({ afterBytes: 700, then: 'end' }),
  'list hangs': nextList({ afterBytes: 700, then: 'hang' }),
  'slow list': nextList({ bytesPerSecond: SLOW_BYTES_PER_SECOND }),
  'connections half-open': ({ server }) => { server.freeze(); server.thaw(); },
  'server killed': async ({ server, churn }) => {
    await server.kill();
    churn.step();
    await pause(DOWN_MS);
    server.store.restart();
    await server.start();
  },
  'server killed, roles late': async ({ server, churn }) => {
    await server.kill();
    churn.step();
    server.store.restart('now');
    await server.start({ rolesAfterMs: ROLES_MS });
  },
  'server terminated': async ({ server, churn }) => {
    const gone = server.terminate(DOWN_MS / 1000);
    churn.step();
    await gone;
    server.store.restart();
    await server.start();
  },
  'storage restored': async ({ server, churn, random, settle }) => {
    const backup = server.store.backup();
    for (let steps = random.between(1, 5); steps > 0; steps -= 1) churn.step();
    await pause(random.below(DOWN_MS));
    server.restore(backup);
    // Versions that were given twice cannot be told apart: so no client survives a storage that
    // has overtaken itself before anybody looks.
    await settle();
    churn.repair();
  },
  'custom resource gone and back': async ({ server, churn }) => {
    const type = customType(clusterNetworkPolicyDefinition());
    server.store.drop(type);
    server.store.collection('customresourcedefinitions').remove(
      'clusternetworkpolicies.policy.networking.k8s.io');
    await pause(DOWN_MS);
    churn.step();
    server.define(clusterNetworkPolicyDefinition());
    churn.repair();
  },
  'clock a day off': ({ server, random }) => {
    server.skewMs = random.pick([-SKEW_MS, 0, SKEW_MS]);
    server.dropWatches('end');
  },
  'nothing': () => {},
};

export interface CycleReport {
  cycles: number;
  /** Of each fault: how often, and the longest time until all was well, in ms. */
  byFault: Map<string, { count: number; worstMs: number }>;
  relists: number;
  changes: number;
  requests: number;
}

/** Plays cycles on one server with one follower. Rejects at the first difference. */
export async function playCycles(version: ServerVersion, cycles: number, seed: number,
  names: readonly string[] = Object.keys(FAULTS)): Promise<CycleReport> {
  const random = new Random(seed);
  const server = new TestApiServer({ version, historyLimit: 500 });
  server.grant('engine', READER_RULES);
  server.defineClusterNetworkPolicy();
  const churn = new Churn(server, random);
  await server.start();
  const follower = new Follower({ kubeconfig: server.kubeconfig(), local: LOCAL });
  const byFault: CycleReport['byFault'] = new Map();
  const truth = (): string => truthOf(churn.objects(), LOCAL);
  let requests = 0;
  try {
    await follower.settled(truth, LIMIT_MS);
    for (let cycle = 0; cycle < cycles; cycle += 1) {
      const name = names[cycle % names.length] ?? 'nothing';
      const world = {
        server, churn, random, resource: random.pick(RESOURCES),
        settle: () => follower.settled(truth, LIMIT_MS),
      };
      const worstMs = await playCycle(name, world, follower, truth)
        .catch((error: Error) => {
          throw new Error(`seed ${seed}, cycle ${cycle}, ${name}: ${error.message}`);
        });
      const before = byFault.get(name) ?? { count: 0, worstMs: 0 };
      byFault.set(name, {
        count: before.count + 1, worstMs: Math.max(before.worstMs, worstMs),
      });
      requests += server.requests.length;
      server.requests.length = 0;
    }
    const { changes } = follower.host;
    return { cycles, byFault, relists: follower.sum('relists'), changes, requests };
  } finally {
    await follower.stop();
    await server.close();
  }
}

async function playCycle(name: string, world: World, follower: Follower, truth: () => string)
  : Promise<number> {
  const { server, churn, random } = world;
  churn.step();
  await FAULTS[name]?.(world, random.below(4));
  for (let steps = random.between(1, 4); steps > 0; steps -= 1) {
    churn.step();
    if (random.oneIn(2)) await pause(random.below(20));
  }
  const wanted = truth();
  const tookMs = await follower.settled(() => wanted, LIMIT_MS);
  server.faults.clear();
  const [fault] = follower.host.faults;
  if (fault !== undefined) throw new Error(`a change that no host could apply: ${fault}`);
  return tookMs;
}
