// From a frame of the sidecar to the verdict of a packet: how long a change of policy takes while
// traffic flows, at 10,000 changes a second.
//
//   main thread     due -> decode -> check the shape -> PolicyTables.apply()
//   worker thread   batch of the mix, batch of the probes; a probe's verdict is another -> seen
//
// 512 local pods have two rule sets each, of ten identities; 60,000 remote pods have 10,000
// identities. Each of 64 probes is a flow from a local pod to a remote one, allowed at first.
// Change k turns the verdict of probe k mod 64: three in four give the remote pod another identity,
// the fourth gives the local pod's rule set another program. Times count from when the frame is
// received; `fromDue` counts from when it was due, so a change that had to wait for those before it
// is not let off.

import { Worker } from 'node:worker_threads';
import { encodeFrame, FrameReader } from '../engine/frame.ts';
import { DeltaSchema, type Delta, type PolicyChange, type RuleSet } from '../engine/model.ts';
import { parseShape } from '../engine/shape.ts';
import { PolicyTables } from '../engine/tables/policy.ts';
import { ANSWER_ALLOW, ANSWER_RULE_SHIFT, PROGRAM_KEY_PROTOCOL_SHIFT } from
  '../wasm/abi/policy.ts';
import { READY, STOP, type DeltaWorkerData } from './delta-worker.ts';
import { FLOW_TABLE } from './mix.ts';
import { NO_CHANGE, enterIdentities, numberOf, ruleSet } from './policy-scene.ts';
import { Hash } from './random.ts';
import { quantile, round, type Measurement } from './report.ts';
import type { Effort, Measured } from './rounds.ts';
import { BATCH, coreModule, deviceOf, makeScene, remoteAddress, type Scene } from './scene.ts';

const PODS = 512;
const POLICIES = PODS * 2;
const REMOTE_PODS = 60_000;
const SMALL_REMOTE_PODS = 2000;
/** Identities of remote pods that are in no group. */
const FIRST_IDENTITY = 1000;
const IDENTITIES = 10_000;
const MORE_ENTRIES = 9;
const PROBES = BATCH;
const FIRST_REMOTE = 600;
const PROBE_PORT = 9999;
const PER_SECOND = 10_000;
/** Measured for this long, or as much shorter as the benches' default time is cut. */
const SECONDS = 10;
const DEFAULT_EFFORT_SECONDS = 3;
/** Changes before anything counts, while the engine's code is compiled. */
const WARM_UP = PROBES * 2 * 32;
const WAIT_MS = 10_000;
/** How long the main thread sleeps before it looks again for what is due or seen. */
const PAUSE_MS = 0.2;
const PROBE_KEY = (6 << PROGRAM_KEY_PROTOCOL_SHIFT) | PROBE_PORT;
const PROBE_RULE = 0x100000;

export async function deltaBench(effort: Effort, small: boolean): Promise<Measured> {
  const scene = makeScene({
    pods: PODS, families: ['IPv4'], policy: { flows: FLOW_TABLE },
  });
  const tables = enterPolicy(scene, small ? SMALL_REMOTE_PODS : REMOTE_PODS);
  const seconds = SECONDS * Math.min(effort.seconds / DEFAULT_EFFORT_SECONDS, 1);
  const count = Math.max(Math.round((PER_SECOND * seconds) / (PROBES * 2)), 1) * PROBES * 2;
  const control = new Int32Array(new SharedArrayBuffer(16));
  const seen = new BigInt64Array(new SharedArrayBuffer((WARM_UP + count) * 8));
  const worker = startWorker(scene, { control, seen });
  try {
    await Promise.race([worker.ready, worker.failed]);
    effort.say(`delta: ${count} changes, ${PER_SECOND} a second`);
    const times = sendChanges(tables, seen, WARM_UP + count);
    return summariseTimes(times, seen.subarray(WARM_UP));
  } finally {
    Atomics.store(control, STOP, 1);
    await worker.ended;
  }
}

interface RunningWorker {
  ready: Promise<unknown>;
  failed: Promise<never>;
  ended: Promise<unknown>;
}

function startWorker(
  { core }: Scene, shared: Pick<DeltaWorkerData, 'control' | 'seen'>,
): RunningWorker {
  const data: DeltaWorkerData = {
    module: coreModule(), memory: core.memory, pods: PODS, policies: POLICIES,
    probePort: PROBE_PORT, firstRemote: FIRST_REMOTE, ...shared,
  };
  const worker = new Worker(new URL('./delta-worker.js', import.meta.url), { workerData: data });
  const failed = new Promise<never>((_, reject) => worker.once('error', reject));
  failed.catch(() => {});
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  const poll = async (): Promise<void> => {
    while (Atomics.load(shared.control, READY) === 0) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  return { ready: poll(), failed, ended };
}

/** Identities, rule sets and endpoints. */
function enterPolicy({ core, limits }: Scene, remotePods: number): PolicyTables {
  const tables = new PolicyTables(core, limits.policy);
  enterIdentities(tables, PODS, PODS);
  const identities: PolicyChange['identities'] = [];
  for (let pod = PODS; pod < remotePods; pod += 1) {
    identities.push([`${remoteAddress('IPv4', pod)}/32`, remoteIdentity(pod)]);
  }
  tables.apply({ ...NO_CHANGE, identities });
  const policies = Array.from({ length: POLICIES }, (_, policy) => policy);
  const endpoints = Array.from({ length: PODS }, (_, pod) => ({
    namespace: 'bench', name: `pod-${pod}`, uid: `${pod}`,
    ingress: numberOf(pod * 2), egress: numberOf((pod * 2) + 1),
  }));
  const ruleSets = policies.map((policy) => wideRuleSet(policy, true));
  tables.apply({ ...NO_CHANGE, ruleSets, endpoints }, (_, __, uid) => deviceOf(Number(uid)));
  return tables;
}

function remoteIdentity(pod: number): number {
  return FIRST_IDENTITY + (pod % IDENTITIES);
}

/** An identity that no rule set names. */
function strangeIdentity(probe: number): number {
  return FIRST_IDENTITY + IDENTITIES + probe;
}

/** A rule set of the policy scene that knows more identities, the one of its pod's probe included,
 * which it allows or denies. */
function wideRuleSet(policy: number, allowsProbe: boolean): RuleSet {
  const base = ruleSet(policy, PODS);
  const pod = policy >>> 1;
  const isProbed = (policy & 1) === 1 && pod < PROBES;
  const entries = new Map(base.entries);
  for (let more = 0; more < MORE_ENTRIES; more += 1) {
    entries.set(FIRST_IDENTITY + ((((policy * MORE_ENTRIES) + more) * 7) % IDENTITIES), 1);
  }
  if (isProbed) entries.set(remoteIdentity(FIRST_REMOTE + pod), base.programs.length);
  const answer = allowsProbe ? ((PROBE_RULE + policy) << ANSWER_RULE_SHIFT) | ANSWER_ALLOW : 0;
  const program: RuleSet['programs'][number] = [[0, 0], [PROBE_KEY, answer], [PROBE_KEY + 1, 0]];
  return {
    ...base,
    programs: isProbed ? [...base.programs, program] : base.programs,
    entries: [...entries],
  };
}

/** Frames that turn a probe's verdict to deny and back. */
function probeFrames(probe: number): [Uint8Array, Uint8Array] {
  const address = `${remoteAddress('IPv4', FIRST_REMOTE + probe)}/32`;
  const change = (allow: boolean): Partial<PolicyChange> => {
    if (probe % 4 === 3) return { ruleSets: [wideRuleSet((probe * 2) + 1, allow)] };
    const identity = allow ? remoteIdentity(FIRST_REMOTE + probe) : strangeIdentity(probe);
    return { identities: [[address, identity]] };
  };
  const frame = (allow: boolean): Uint8Array => encodeFrame({
    from: 1, to: 2, nodes: [], removedNodes: [], pods: [], removedPods: [],
    policy: { ...NO_CHANGE, ...change(allow) },
  } satisfies Delta);
  return [frame(false), frame(true)];
}

/** What sendChanges() noted, in nanoseconds. */
interface Times {
  due: BigInt64Array;
  received: BigInt64Array;
  appliedNs: Float64Array;
  elapsedNs: number;
}

/** Applies the changes, each when it is due and when its probe has shown the one before. Those of
 * the warm-up are all due at once. */
function sendChanges(tables: PolicyTables, seen: BigInt64Array, count: number): Times {
  const frames = Array.from({ length: PROBES }, (_, probe) => probeFrames(probe));
  const reader = new FrameReader();
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const due = new BigInt64Array(count);
  const received = new BigInt64Array(count);
  const appliedNs = new Float64Array(count);
  let start = process.hrtime.bigint();
  for (let index = 0; index < count; index += 1) {
    if (index === WARM_UP) start = process.hrtime.bigint();
    const at = start + BigInt(Math.round(Math.max(index - WARM_UP, 0) * (1e9 / PER_SECOND)));
    while (process.hrtime.bigint() < at) Atomics.wait(pause, 0, 0, PAUSE_MS);
    if (index >= PROBES) waitFor(seen, index - PROBES);
    const before = process.hrtime.bigint();
    const frame = frames[index % PROBES]?.[Math.floor(index / PROBES) % 2] ?? new Uint8Array(0);
    for (const value of reader.push(frame)) {
      const { policy } = parseShape(DeltaSchema, value, 'delta');
      if (policy !== undefined) tables.apply(policy);
    }
    due[index] = at;
    received[index] = before;
    appliedNs[index] = Number(process.hrtime.bigint() - before);
  }
  for (let index = Math.max(count - PROBES, 0); index < count; index += 1) waitFor(seen, index);
  return {
    due: due.subarray(WARM_UP),
    received: received.subarray(WARM_UP),
    appliedNs: appliedNs.subarray(WARM_UP),
    elapsedNs: Number(process.hrtime.bigint() - start),
  };
}

/** Waits until the worker has seen a change. */
function waitFor(seen: BigInt64Array, index: number): void {
  const end = performance.now() + WAIT_MS;
  while (Atomics.load(seen, index) === 0n) {
    Atomics.wait(seen, index, 0n, PAUSE_MS);
    if (performance.now() > end) throw new Error(`change ${index} never showed in a verdict`);
  }
}

function summariseTimes(times: Times, seen: BigInt64Array): Measured {
  const since = (start: BigInt64Array): number[] =>
    Array.from(start, (at, index) => Number((seen[index] ?? 0n) - at));
  const count = seen.length;
  const fromReceived = since(times.received);
  const hash = new Hash();
  for (const [index, at] of seen.entries()) if (at !== 0n) hash.add(index);
  const result = (name: string, nsPerOp: number): Measurement =>
    ({ name: `policyDelta/${name}`, nsPerOp: round(nsPerOp, 1), ops: count, hash: hash.text() });
  return {
    results: [
      result('p50Ms', quantile(fromReceived, 0.5)),
      result('p99Ms', quantile(fromReceived, 0.99)),
      result('fromDueP99Ms', quantile(since(times.due), 0.99)),
      result('apply', quantile([...times.appliedNs], 0.5)),
      result('sustained', times.elapsedNs / count),
    ],
    ratios: {},
  };
}
