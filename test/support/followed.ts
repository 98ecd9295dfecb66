// A cluster that is followed from a test API server, and what has been delivered of it, for
// comparison with what the server really has.

import { setTimeout as sleep } from 'node:timers/promises';
import type { SourceHealth } from '../../engine/model.ts';
import { loadAccess } from '../../sync/kubernetes/access.ts';
import { ApiClient } from '../../sync/kubernetes/client.ts';
import type { ClientOptions } from '../../sync/kubernetes/client.ts';
import { RESOURCES } from '../../sync/kubernetes/resources.ts';
import { KubernetesSource } from '../../sync/kubernetes/source.ts';
import type { FollowedResource, KubernetesOptions } from '../../sync/kubernetes/source.ts';
import type { Timing } from '../../sync/kubernetes/timing.ts';
import { project } from '../../sync/objects.ts';
import type { Entry } from '../../sync/objects.ts';
import type { ClusterSink } from '../../sync/state.ts';
import { READER_RULES } from './api-server/server.ts';
import type { TestApiServer } from './api-server/server.ts';
import { PATIENCE_MS } from './until.ts';

/** Times that fit a test: about a hundredth of the usual ones. */
export const QUICK: Partial<Timing> = {
  backoffFirstMs: 10, backoffCapMs: 100, stableMs: 1000, silenceMs: 600, checkMs: 2000,
  refusalGraceMs: 400, absenceGraceMs: 50, lossGraceMs: 500, slowRetryMs: 100,
  watchListRetryMs: 3000, shortWatchMs: 20, pageSize: 20,
};

/** Keeps what was delivered, object by object. */
export class Collector implements ClusterSink {
  readonly entries = new Map<string, Entry>();
  readonly health: SourceHealth[] = [];
  /** Entries and removals, in order, as `+Pod a/b` and `-Pod a/b`. */
  readonly told: string[] = [];
  commits = 0;
  upserts = 0;
  /** Whether it keeps `told`. */
  readonly isTelling: boolean;

  constructor(isTelling = true) {
    this.isTelling = isTelling;
  }

  upsert(entry: Entry): void {
    this.upserts += 1;
    this.entries.set(`${entry.kind} ${entry.key}`, entry);
    if (this.isTelling) this.told.push(`+${entry.kind} ${entry.key}`);
  }

  remove(kind: Entry['kind'], key: string, uid: string): void {
    const entry = this.entries.get(`${kind} ${key}`);
    if (entry !== undefined && uidOf(entry) !== uid) throw new Error(`${key} has another uid`);
    this.entries.delete(`${kind} ${key}`);
    if (this.isTelling) this.told.push(`-${kind} ${key}`);
  }

  commit(): void {
    this.commits += 1;
  }

  setHealth(health: SourceHealth): void {
    this.health.push(health);
  }

  /** Said last. */
  get last(): SourceHealth | undefined {
    return this.health.at(-1);
  }
}

function uidOf(entry: Entry): string {
  return entry.kind === 'Pod' ? entry.pod.uid : entry.uid;
}

/** What the server has, projected by a fresh look at each object. */
export function truthOf(server: TestApiServer): Map<string, Entry> {
  const entries = new Map<string, Entry>();
  for (const { plural, kind, apiVersion } of RESOURCES) {
    if (!server.store.types().some((type) => type.plural === plural)) continue;
    for (const object of server.list(plural)) {
      const { entry } = project({ ...object, kind, apiVersion }, () => '');
      if (entry !== null) entries.set(`${kind} ${entry.key}`, entry);
    }
  }
  return entries;
}

/** How two states differ, a line for each object, the first ten. */
export function differences(
  wanted: ReadonlyMap<string, Entry>, found: ReadonlyMap<string, Entry>,
): string[] {
  const lines: string[] = [];
  for (const key of new Set([...wanted.keys(), ...found.keys()])) {
    const [want, have] = [wanted, found].map((map) => JSON.stringify(map.get(key)) ?? 'nothing');
    if (want !== have) lines.push(`${key}: wanted ${want}, found ${have}`);
    if (lines.length === 10) break;
  }
  return lines;
}

export interface Followed {
  collector: Collector;
  source: KubernetesSource;
  client: ApiClient;
  /** What was logged, as `warn text`. */
  log: string[];
  resource(plural: string): FollowedResource;
  /** Waits until what was delivered is what the server has; fails with the differences. */
  settled(timeoutMs?: number): Promise<void>;
  stop(): Promise<void>;
}

export interface FollowOptions {
  source?: Partial<KubernetesOptions>;
  client?: ClientOptions;
  sink?: ClusterSink;
  isTelling?: boolean;
  grant?: boolean;
}

/** Follows the server as the user `engine`, who is given the rights to read. */
export function follow(server: TestApiServer, options: FollowOptions = {}): Followed {
  if (options.grant !== false) server.grant('engine', READER_RULES);
  const log: string[] = [];
  const note = (level: string) => (_: object, text: string): void => {
    log.push(`${level} ${text}`);
  };
  const client = new ApiClient(
    loadAccess({ kubeconfig: server.kubeconfig(), environment: {} }), options.client);
  const collector = new Collector(options.isTelling);
  const abort = new AbortController();
  const source = new KubernetesSource({
    client, nodeName: 'n1', timing: QUICK, staleAfterMs: 100,
    log: { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') },
    ...options.source,
  }, options.sink ?? collector);
  const running = source.run(abort.signal);
  running.catch((error: unknown) => note('error')({}, String(error)));
  return {
    collector, source, client, log,
    resource: (plural) => {
      const found = source.resources.find(({ resource }) => resource === plural);
      if (found === undefined) throw new Error(`${plural} is not followed`);
      return found;
    },
    settled: async (timeoutMs = PATIENCE_MS) => {
      let lines: string[] = [];
      await until('the state is the server\'s', () => {
        if (collector.commits === 0) return false;
        lines = differences(truthOf(server), collector.entries);
        return lines.length === 0;
      }, timeoutMs).catch((error: unknown) => {
        const states = source.resources.map((state) => JSON.stringify(state));
        throw new Error(`${String(error)}:\n${[...states, ...lines].join('\n')}`,
          { cause: error });
      });
    },
    stop: async () => {
      abort.abort();
      await running;
    },
  };
}

/** Waits for a condition; fails with its name after the time. */
export async function until(
  what: string, condition: () => boolean, timeoutMs = PATIENCE_MS,
): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    const beganMs = performance.now();
    if (condition()) return;
    const nowMs = performance.now();
    if (nowMs > endMs) throw new Error(`${timeoutMs} ms and not yet: ${what}`);
    // Looking leaves most of the time to what is looked at.
    await sleep(Math.max(5, 4 * (nowMs - beganMs)));
  }
}

/** A node that flannel's nodes see, with a /24 of pods. */
export function nodeObject(name: string, number: number): {
  metadata: { name: string; annotations: Record<string, string> }; spec: object; status: object;
} {
  const prefix = 'flannel.alpha.coreos.com/';
  const hex = number.toString(16).padStart(4, '0');
  return {
    metadata: {
      name,
      annotations: {
        [`${prefix}kube-subnet-manager`]: 'true',
        [`${prefix}backend-type`]: 'vxlan',
        [`${prefix}backend-data`]:
          `{"VNI":1,"VtepMAC":"02:00:00:00:${hex.slice(0, 2)}:${hex.slice(2)}"}`,
        [`${prefix}public-ip`]: `192.0.${number >> 8}.${number & 255}`,
      },
    },
    spec: { podCIDR: `10.${number >> 8}.${number & 255}.0/24` },
    status: {
      addresses: [{ type: 'InternalIP', address: `192.0.${number >> 8}.${number & 255}` }],
    },
  };
}

/** A running pod. */
export function podObject(namespace: string, name: string, address: string, nodeName = 'n1'): {
  metadata: { namespace: string; name: string; labels: Record<string, string> };
  spec: object; status: { phase: string; podIP: string; podIPs: { ip: string }[] };
} {
  return {
    metadata: { namespace, name, labels: { app: name } },
    spec: { nodeName, containers: [{ name: 'c', ports: [{ name: 'http', containerPort: 80 }] }] },
    status: { phase: 'Running', podIP: address, podIPs: [{ ip: address }] },
  };
}
