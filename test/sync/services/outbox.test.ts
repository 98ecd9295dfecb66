// Changes of Services that wait: however they are joined before they are sent, they lead to what
// they lead to one by one.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Service } from '../../../engine/model.ts';
import { Outbox, isSmall } from '../../../sync/outbox.ts';
import type { Change } from '../../../sync/outbox.ts';
import { Random } from '../../support/random.ts';

const NAMES = ['a', 'b', 'c', 'd', 'e'];

function serviceOf(name: string, port: number, backends: number): Service {
  return {
    namespace: 'test', name, addresses: ['10.96.0.1'], affinitySeconds: 0, empty: 'reject',
    ports: [{
      name: '', protocol: 'TCP', port,
      backends: Array.from({ length: backends }, (_, at) =>
        ({ address: `10.0.0.${at % 256}`, port: 1 + at, state: 'ready' })),
    }],
  };
}

function apply(state: Map<string, Service>, change: Change): void {
  for (const { name } of change.removedServices ?? []) state.delete(name);
  for (const service of change.services ?? []) state.set(service.name, service);
}

test('random changes, taken one by one or together', () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = new Random(seed);
    const [wanted, found] = [new Map<string, Service>(), new Map<string, Service>()];
    const outbox = new Outbox();
    outbox.begin();
    let revision = 0;
    const take = (): void => {
      const step = outbox.next();
      if (step === null) return;
      assert.ok(isSmall(step.change));
      apply(found, step.change);
      outbox.confirm(step.revision);
    };
    for (let round = 0; round < 60; round += 1) {
      const name = random.pick(NAMES);
      const base = { nodes: [], removedNodes: [], pods: [], removedPods: [] };
      const change: Change = wanted.has(name) && random.oneIn(3)
        ? { ...base, services: [], removedServices: [{ namespace: 'test', name }] }
        : { ...base, services: [serviceOf(name, 1 + round, random.below(3))], removedServices: [] };
      apply(wanted, change);
      revision += 1;
      outbox.add(revision, change);
      if (random.oneIn(4)) take();
    }
    while (outbox.next() !== null) take();
    assert.equal([...found].sort(), [...wanted].sort(), `seed ${seed}`);
  }
});

test('large Services wait apart, so that each still fits a frame', () => {
  const outbox = new Outbox();
  outbox.begin();
  const base = { nodes: [], removedNodes: [], pods: [], removedPods: [], removedServices: [] };
  NAMES.forEach((name, at) => {
    outbox.add(at + 1, { ...base, services: [serviceOf(name, 80, 6000)] });
  });
  for (const name of NAMES) {
    const step = outbox.next();
    assert.equal(step?.change.services?.map((one) => one.name), [name]);
    assert.ok(step !== null && isSmall(step.change));
    outbox.confirm(step.revision);
  }
});

test.run();
