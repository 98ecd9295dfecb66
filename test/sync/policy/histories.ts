// Random histories through the compiler: after every step its state is that of a compiler that only
// ever saw the last objects, and the changes it gave lead a host there, without a state in between
// that says what neither the one before nor the one after says.

import * as assert from 'uvu/assert';
import type { PolicyChange } from '../../../engine/model.ts';
import type { Entry } from '../../../sync/objects.ts';
import { PolicyCompiler } from '../../../sync/policy/compiler.ts';
import type { CompilerOptions } from '../../../sync/policy/compiler.ts';
import { policyDigest } from '../../../sync/policy/digest.ts';
import { objectKey } from '../../support/cluster-generator.ts';
import { History } from './history.ts';
import { Tables, readEntries } from './tables.ts';
import type { ProtocolName } from './tables.ts';

const STEPS = 30;
const ASKED: [ProtocolName, number][] = [
  ['ICMP', 0], ['TCP', 80], ['TCP', 443], ['UDP', 53], ['SCTP', 1024],
];
const OUTSIDE = ['198.51.100.7', '8.8.8.8', '2606:4700::1111', '192.168.50.1', '2001:db8:50::2'];

/** A compiler that has only seen these objects. */
export function compiled(entries: readonly Entry[], options: CompilerOptions): PolicyCompiler {
  const compiler = new PolicyCompiler(options);
  compiler.replace(entries);
  compiler.commit();
  return compiler;
}

/** Feeds one step. */
function feed(compiler: PolicyCompiler, change: ReturnType<History['step']>): void {
  if (typeof change !== 'string') {
    for (const entry of readEntries([change])) compiler.upsert(entry);
    return;
  }
  const [, kind = '', namespace = '', name = ''] = /^(\w+) (.*)\/(.*)$/.exec(change) ?? [];
  const isNamespaced = kind === 'Pod' || kind === 'NetworkPolicy';
  compiler.remove(kind as Entry['kind'], isNamespaced ? `${namespace || 'default'}/${name}` : name);
}

/** What every endpoint says about every address. */
function answers(tables: Tables, addresses: readonly string[]): Map<string, string> {
  const all = new Map<string, string>();
  for (const endpoint of tables.endpoints.keys()) {
    for (const address of addresses) {
      for (const direction of ['ingress', 'egress'] as const) {
        for (const [protocol, port] of ASKED) {
          const { word, policy, rule } = tables.ask(endpoint, direction, address, protocol, port);
          all.set(`${endpoint} ${direction} ${address} ${protocol}/${port}`,
            `${word} ${policy} ${rule}`);
        }
      }
    }
  }
  return all;
}

/** Addresses that pods have in any of the states, each with these pods. */
function addressesOf(...states: (readonly Entry[])[]): Map<string, Set<string>> {
  const found = new Map(OUTSIDE.map((address) => [address, new Set<string>()]));
  for (const entry of states.flat()) {
    if (entry.kind !== 'Pod' || !entry.hasNetwork) continue;
    for (const address of entry.pod.addresses) {
      found.set(address, (found.get(address) ?? new Set()).add(entry.key));
    }
  }
  return found;
}

/** Applies a change and looks at each state on the way. What a pod's rules say about the pod's own
 * address is of no account: the core does not ask. */
function applyWatched(
  tables: Tables, change: PolicyChange, owners: Map<string, Set<string>>, after: Tables,
  what: string,
): void {
  const addresses = [...owners.keys()];
  const start = answers(tables, addresses);
  const end = answers(after, addresses);
  tables.apply(change, (step) => {
    for (const [question, answer] of answers(tables, addresses)) {
      const fine = step === 'rule sets' ? [start.get(question)]
        : step === 'endpoints' ? [end.get(question)]
        : [start.get(question), end.get(question)];
      const [endpoint = '', , address = ''] = question.split(' ');
      if (!after.endpoints.has(endpoint) || owners.get(address)?.has(endpoint)) continue;
      if (!fine.includes(answer)) {
        assert.unreachable(`${what}, after ${step}: ${question} is ${answer}, not ${fine}`);
      }
    }
  });
}

/** Runs one history. */
export function checkHistory(seed: number, options: CompilerOptions): void {
  const history = new History(seed);
  let entries = readEntries(history.cluster.list());
  const compiler = compiled(entries, options);
  const tables = new Tables();
  tables.apply(compiler.snapshot());
  for (let step = 0; step < STEPS; step += 1) {
    const before = entries;
    const object = history.step();
    feed(compiler, object);
    const change = compiler.commit();
    entries = readEntries(history.cluster.list());
    const after = new Tables();
    after.apply(compiled(entries, options).snapshot());
    const name = typeof object === 'string' ? `no ${object}` : objectKey(object);
    const what = `seed ${seed} step ${step} (${name})`;
    if (change !== null) applyWatched(tables, change, addressesOf(before, entries), after, what);
    const digest = policyDigest(after.state());
    assert.is(policyDigest(compiler.snapshot()), digest, `${what}: snapshot`);
    assert.is(policyDigest(tables.state()), digest, `${what}: tables`);
  }
}
