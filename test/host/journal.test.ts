// What the sidecar said, kept in a file: the same comes back, and a file that was cut off anywhere
// or damaged gives a state that once was, or none.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Delta, PolicyChange, Service, Snapshot } from '../../engine/model.ts';
import {
  Journal, JournalError, deltaFrame, snapshotFrames, type Recalled,
} from '../../host/journal.ts';
import { JOURNAL_BYTES_LIMIT } from '../../host/limits.ts';
import { clusterNode } from '../netns/support/forge-cluster.ts';
import { Random } from '../support/random.ts';

const test = suite('host/journal');
const LOCAL = 'node-1';
const NOTHING: PolicyChange = {
  identities: [], ruleSets: [], removedRuleSets: [], endpoints: [], removedEndpoints: [],
  rules: [], removedRules: [],
};

function snapshotOf(nodes: number, policy?: PolicyChange): Snapshot {
  const snapshot = {
    revision: 1, local: LOCAL, pods: [],
    nodes: Array.from({ length: nodes }, (_, at) => clusterNode(at + 1)),
  };
  return policy === undefined ? snapshot : { ...snapshot, policy };
}

function deltaTo(to: number): Delta {
  return {
    from: to - 1, to, nodes: [clusterNode(100 + to)], removedNodes: [], pods: [], removedPods: [],
    policy: { ...NOTHING, rules: [{ number: to, policy: 'NetworkPolicy a/b', rule: 'egress[0]' }] },
  };
}

function withJournal(name: string, body: (journal: Journal, path: string) => void): void {
  test(name, () => {
    const folder = mkdtempSync(join(tmpdir(), 'culvert-journal-'));
    try {
      body(new Journal(folder), join(folder, 'cluster'));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

/** What a next daemon finds; null for nothing, or for a file that it does not use. */
function recalled(path: string): Recalled | null {
  try {
    return new Journal(join(path, '..')).recall(LOCAL);
  } catch (error) {
    if (error instanceof JournalError) return null;
    throw error;
  }
}

withJournal('a snapshot and its changes come back', (journal, path) => {
  assert.is(journal.recall(LOCAL), null);
  const snapshot = snapshotOf(3, { ...NOTHING, identities: [['10.0.0.1/32', 5]] });
  journal.replace(snapshotFrames(snapshot));
  assert.equal(recalled(path), { snapshot, deltas: [], fault: null });
  journal.append(deltaFrame(deltaTo(2)));
  journal.append(deltaFrame(deltaTo(3)));
  assert.equal(recalled(path), { snapshot, deltas: [deltaTo(2), deltaTo(3)], fault: null });
  const next = snapshotOf(1);
  journal.replace(snapshotFrames(next));
  journal.append(deltaFrame(deltaTo(2)));
  assert.equal(recalled(path), { snapshot: next, deltas: [deltaTo(2)], fault: null });
  journal.clear();
  journal.append(deltaFrame(deltaTo(3)));
  assert.is(recalled(path), null);
});

withJournal('Services come back, and that there are none', (journal, path) => {
  const services = Array.from({ length: 500 }, (_, at): Service => ({
    namespace: 'test', name: `service-${at}`, addresses: [`10.96.${at >>> 8}.${at & 255}`],
    ports: [{
      name: '', protocol: 'TCP', port: 80,
      backends: Array.from({ length: 100 }, (_none, end) =>
        ({ address: `10.1.0.${end}`, port: 8080, state: 'ready' })),
    }],
    affinitySeconds: 0, empty: 'reject',
  }));
  for (const some of [services, []]) {
    const snapshot = { ...snapshotOf(1), services: some };
    journal.replace(snapshotFrames(snapshot));
    assert.equal(recalled(path), { snapshot, deltas: [], fault: null });
  }
});

/** A change of one of some Services, which has many backends but one. */
function serviceDelta(to: number): Delta {
  const backends = Array.from({ length: 200 }, (_, at) =>
    ({ address: `10.1.0.${at}`, port: 8080, state: 'ready' as const }));
  const service: Service = {
    namespace: 'test', name: `service-${to % 7}`, addresses: [`10.96.0.${to % 7}`],
    ports: [{
      name: '', protocol: 'TCP', port: 80, backends: backends.filter((_, at) => at !== to % 200),
    }],
    affinitySeconds: 0, empty: 'reject',
  };
  const nothing = { nodes: [], removedNodes: [], pods: [], removedPods: [] };
  return { from: to - 1, to, ...nothing, services: [service], removedServices: [] };
}

withJournal('changes of Services do not make the file long', (journal, path) => {
  journal.replace(snapshotFrames(snapshotOf(1)));
  const gone: Delta = {
    ...serviceDelta(3), services: [], removedServices: [{ namespace: 'test', name: 'service-0' }],
  };
  const withPolicy = { ...serviceDelta(5), policy: NOTHING };
  const kept = [deltaTo(2), withPolicy];
  for (const delta of [serviceDelta(1), ...kept, gone]) journal.append(deltaFrame(delta));
  const size = deltaFrame(serviceDelta(1)).bytes.length;
  const count = Math.ceil((3 * JOURNAL_BYTES_LIMIT) / size);
  const services = new Map<string, Service>();
  for (let to = 7; to < count; to += 1) {
    // One is gone for good.
    const delta = serviceDelta(to % 7 === 0 ? to + 1 : to);
    for (const service of delta.services ?? []) services.set(service.name, service);
    journal.append(deltaFrame(delta));
    assert.not(journal.isLong);
  }
  assert.ok(readFileSync(path).length < JOURNAL_BYTES_LIMIT * 1.1);
  const { deltas = [], fault } = recalled(path) ?? {};
  assert.is(fault, null);
  assert.equal(deltas.slice(0, 3), [...kept, gone]);
  const found = new Map(deltas.slice(3).flatMap((delta) => delta.services ?? [])
    .map((service) => [service.name, service]));
  assert.equal(found, services);
});

withJournal('what cannot be left out makes the file long', (journal) => {
  journal.replace(snapshotFrames(snapshotOf(1)));
  const rules = Array.from({ length: 4000 }, (_, number) =>
    ({ number, policy: 'NetworkPolicy a/b', rule: 'egress[0]' }));
  const delta = { ...deltaTo(2), policy: { ...NOTHING, rules } };
  const frame = deltaFrame(delta);
  for (let at = 0; at < JOURNAL_BYTES_LIMIT; at += frame.bytes.length) {
    assert.not(journal.isLong);
    journal.append(frame);
  }
  journal.append(frame);
  assert.ok(journal.isLong);
});

withJournal('what is larger than a frame is cut into pieces', (journal, path) => {
  const identities = Array.from({ length: 60_000 }, (_, at): [string, number] =>
    [`10.${at >>> 16}.${(at >>> 8) & 255}.${at & 255}/32`, at]);
  const entries = Array.from({ length: 30_000 }, (_, at): [number, number] => [at, 0]);
  const ruleSets = Array.from({ length: 12 }, (_, at) =>
    ({ number: at + 1, programs: [[[0, 0]] as [number, number][]], fallback: 0, entries }));
  const snapshot = snapshotOf(200, { ...NOTHING, identities, ruleSets });
  journal.replace(snapshotFrames(snapshot));
  assert.equal(recalled(path), { snapshot, deltas: [], fault: null });
});

withJournal('a file that ends anywhere has the changes that are whole', (journal, path) => {
  journal.replace(snapshotFrames(snapshotOf(2)));
  const first = readFileSync(path).length;
  const ends = [2, 3, 4].map((to) => {
    journal.append(deltaFrame(deltaTo(to)));
    return readFileSync(path).length;
  });
  const whole = readFileSync(path);
  for (let length = 0; length <= whole.length; length += 3) {
    writeFileSync(path, whole.subarray(0, length));
    const found = recalled(path);
    if (length < first) assert.is(found, null);
    else assert.is(found?.deltas.length, ends.filter((end) => end <= length).length);
  }
});

withJournal('a damaged file never gives a state that was not', (journal, path) => {
  const random = new Random(3);
  journal.replace(snapshotFrames(snapshotOf(2)));
  for (const to of [2, 3, 4]) journal.append(deltaFrame(deltaTo(to)));
  const whole = readFileSync(path);
  const states = [0, 1, 2, 3].map((count) =>
    ({ snapshot: snapshotOf(2), deltas: [2, 3, 4].slice(0, count).map(deltaTo) }));
  for (let round = 0; round < 500; round += 1) {
    const damaged = Buffer.from(whole);
    const at = random.below(damaged.length);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << random.below(8));
    writeFileSync(path, damaged);
    const found = recalled(path);
    if (found === null) continue;
    const { snapshot, deltas } = found;
    assert.equal({ snapshot, deltas }, states[deltas.length]);
  }
});

withJournal('another node\'s state is refused', (journal, path) => {
  journal.replace(snapshotFrames({ ...snapshotOf(1), local: 'node-9' }));
  assert.throws(() => new Journal(join(path, '..')).recall(LOCAL), /it is of node node-9/);
});

test.run();
