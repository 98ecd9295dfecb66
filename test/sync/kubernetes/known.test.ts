// The compact table against a Map, through lists, changes, removals and names used again.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { KnownObjects } from '../../../sync/kubernetes/known.ts';
import { Random } from '../../support/random.ts';

const test = suite('known objects');

test('it knows what a Map would know', () => {
  for (let seed = 1; seed <= 8; seed += 1) {
    const random = new Random(seed);
    const known = new KnownObjects();
    const twin = new Map<string, { uid: string; version: number; list: number }>();
    let list = 0;
    const names = 5 + random.below(400);
    for (let step = 0; step < 4000; step += 1) {
      const key = `namespace-${random.below(7)}/pöd-${random.below(names)}`;
      const choice = random.below(20);
      if (choice < 12) {
        const uid = random.oneIn(2) ? `uid-${'x'.repeat(random.below(3))}${random.below(3)}`
          : `0a1b2c3d-000${random.below(3)}-4fff-8000-000000000000`;
        const version = random.below(1e9);
        known.set({ key, uid, version });
        twin.set(key, { uid, version, list });
      } else if (choice < 19) {
        known.delete(key);
        twin.delete(key);
      } else {
        known.beginList();
        list += 1;
      }
      const { uid, version } = twin.get(key) ?? {};
      assert.equal(known.get(key), uid === undefined ? null : { key, uid, version });
      assert.is(known.count, twin.size);
    }
    const missing = [...twin].filter(([, item]) => item.list !== list).map(([key]) => key).sort();
    assert.equal(known.missing().map(({ key }) => key).sort(), missing);
  }
});

test('a version that is no number equals nothing', () => {
  const known = new KnownObjects();
  known.set({ key: 'a', uid: '', version: NaN });
  assert.is(known.get('a')?.version === known.get('a')?.version, false);
});

test('100,000 pods take less than 10 MiB, and coming and going takes no more', () => {
  const known = new KnownObjects();
  const uid = (i: number): string => `0a1b2c3d-0000-4000-8000-${String(i).padStart(12, '0')}`;
  for (let i = 0; i < 100_000; i += 1) {
    known.set({ key: `namespace-${i % 500}/application-${i}`, uid: uid(i), version: i });
  }
  assert.is(known.count, 100_000);
  assert.ok(known.size < 10 * 2 ** 20, `${known.size} bytes`);
  for (let i = 0; i < 200_000; i += 1) {
    known.delete(`namespace-${i % 500}/application-${i}`);
    const next = i + 100_000;
    const key = `namespace-${next % 500}/application-${next}`;
    known.set({ key, uid: uid(next), version: next });
  }
  assert.is(known.count, 100_000);
  assert.ok(known.size < 10 * 2 ** 20, `${known.size} bytes`);
});

test.run();
