// The judge of a soak sees what it is there to see: a leak, latency that grows, a drop without a
// cause, a descriptor too many.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Ping } from './probes.ts';
import { DropTotals, type Sample } from './samples.ts';
import { judgeDescriptors, judgeLatency, judgeSamples, slope } from './verdict.ts';

const test = suite('soak/verdict');
const MIB = 2 ** 20;
const COUNT = 100;

/** Samples of an hour, of a node in which nothing happens but what is said, by number. */
function hour(of: (at: number) => Partial<Sample> = () => ({})): Sample[] {
  const calm = { median: 1, p95: 2, p99: 3 };
  return Array.from({ length: COUNT }, (_, at): Sample => ({
    seconds: at * 36, residentBytes: { daemon: (90 + (at % 7)) * MIB }, heapBytes: {},
    descriptors: {}, flows: {}, drops: {}, pings: 50, pingMs: calm, controlMs: calm, ...of(at),
  }));
}

const faults = (samples: Sample[]): string[] =>
  judgeSamples(samples).filter(({ isSound }) => !isSound).map(({ name }) => name);

test('a line through points has their slope', () => {
  assert.is(slope([[0, 1], [1, 3], [2, 5]]), 2);
  assert.is(slope([[1, 4]]), 0);
  assert.is(slope([]), 0);
});

test('an hour of nothing is sound', () => assert.equal(faults(hour()), []));

test('memory that grows is a fault', () => {
  assert.equal(faults(hour((at) => ({ residentBytes: { daemon: (90 + (at / 8)) * MIB } }))),
    ['resident, daemon']);
  assert.equal(faults(hour((at) => ({ heapBytes: { daemon: (13 + (at / 8)) * MIB } }))),
    ['heap, daemon']);
});

/** Pings of a hundred seconds, ten a second, whose times are what is said of each second. */
function pings(of: (second: number) => [number, number]): Ping[] {
  return Array.from({ length: 1000 }, (_, at): Ping => {
    const [ms, controlMs] = of(Math.floor(at / 10));
    return { atMs: at * 100, ms, controlMs, isDisturbed: false };
  });
}

const late = (of: (second: number) => [number, number]): string[] =>
  judgeLatency(pings(of)).filter(({ isSound }) => !isSound).map(({ name }) => name);

test('latency that grows is a fault, unless the machine is as slow', () => {
  assert.equal(late(() => [1, 1]), []);
  assert.equal(late((second) => [second < 50 ? 1 : 9, 1]), ['latency, median', 'latency, p95']);
  assert.equal(late((second) => (second < 50 ? [1, 1] : [9, 9])), []);
  assert.equal(late((second) => [1 + (second / 20), 1]), ['latency, median', 'latency, p95']);
});

test('a slow moment is none of the median, and one of the p95', () => {
  assert.equal(late((second) => [second > 97 ? 90 : 1, 1]), ['latency, p95']);
});

test('no ping at all is a fault', () => {
  assert.is(judgeLatency([]).every(({ isSound }) => !isSound), true);
});

test('a drop that nothing of the scenario makes is a fault', () => {
  assert.equal(faults(hour(() => ({ drops: { 'inbound.policyIngress': 9 } }))), []);
  assert.equal(faults(hour(() => ({ drops: { 'outbound.spoofedSource': 1 } }))), ['drops']);
});

test('descriptors are as many as before', () => {
  const names = (first: number, last: number): boolean[] =>
    judgeDescriptors({ daemon: first }, { daemon: last }).map(({ isSound }) => isSound);
  assert.equal(names(7, 7), [true]);
  assert.equal(names(7, 8), [false]);
});

test('drops are added up over daemons', () => {
  const totals = new DropTotals();
  const drops = (noRoute: number): Parameters<DropTotals['note']>[2] =>
    ({ outbound: {}, inbound: { noRoute } }) as unknown as Parameters<DropTotals['note']>[2];
  for (const [node, process, count] of [
    ['one', 1, 3], ['one', 1, 5], ['one', 2, 1], ['other', 9, 10], ['one', 2, 4],
  ] as const) totals.note(node, process, drops(count));
  assert.equal(totals.totals(), { 'inbound.noRoute': 19 });
});

test.run();
