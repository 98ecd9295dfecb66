// Whether a soak was sound: what may not grow does not, and everything dropped has a cause that the
// scenario makes on purpose.

import type { Ping } from './probes.ts';
import { percentiles, type Sample } from './samples.ts';

/** What a process may grow by, over the time that is judged: what a line through its samples says.
 * Less is the noise of a collector that is in no hurry. */
const GROWTH_LIMIT_BYTES = 8 * 2 ** 20;
/** Latency at the end may be so many times that at the start, and so much more; as many times more
 * again as a datagram that Culvert has no part in takes longer: the machine has other work. */
const LATENCY_FACTOR = 2;
const LATENCY_SLACK_MS = 1;
const PARTS = 5;

/** Drops that the scenario makes, and what of it makes them. */
export const EXPLAINED: Readonly<Record<string, string>> = {
  'inbound.policyIngress': 'datagrams to a pod that takes none, and knocks at the closed gate',
  'inbound.noRoute': 'pings to pods that have gone',
};

export interface Check {
  name: string;
  isSound: boolean;
  detail: string;
}

/** Slope of the line that is nearest to the points by least squares, per unit of x. */
export function slope(points: readonly (readonly [number, number])[]): number {
  const meanX = mean(points.map(([x]) => x));
  const meanY = mean(points.map(([, y]) => y));
  const spread = points.reduce((sum, [x]) => sum + ((x - meanX) ** 2), 0);
  const shared = points.reduce((sum, [x, y]) => sum + ((x - meanX) * (y - meanY)), 0);
  return spread === 0 ? 0 : shared / spread;
}

/** Judges the samples from the end of the warm-up to the end. */
export function judgeSamples(samples: readonly Sample[]): Check[] {
  return [
    ...judgeMemory('resident', samples, ({ residentBytes }) => residentBytes),
    ...judgeMemory('heap', samples, ({ heapBytes }) => heapBytes),
    judgeDrops(samples),
  ];
}

/** Judges the percentiles of all pings of the last fifth of the time by those of the first: a busy
 * moment of the machine, in which few pings are made, then counts as the few that it is. */
export function judgeLatency(all: readonly Ping[]): Check[] {
  const pings = all.filter(({ isDisturbed }) => !isDisturbed);
  const [startMs, endMs] = [pings[0]?.atMs ?? 0, pings.at(-1)?.atMs ?? 0];
  const partMs = (endMs - startMs) / PARTS;
  const early = pings.filter(({ atMs }) => atMs <= startMs + partMs);
  const late = pings.filter(({ atMs }) => atMs >= endMs - partMs);
  return (['median', 'p95'] as const).map((what) => {
    const [first, last] = [early, late].map((part) =>
      percentiles(part.map(({ ms }) => ms))[what]) as [number, number];
    const [quiet, busy] = [early, late].map((part) =>
      percentiles(part.map(({ controlMs }) => controlMs))[what]) as [number, number];
    const limit = (first * LATENCY_FACTOR * Math.max(1, busy / quiet)) + LATENCY_SLACK_MS;
    return {
      name: `latency, ${what}`, isSound: pings.length > 0 && last <= limit,
      detail: `${first.toFixed(2)} ms of ${early.length} pings in the first fifth, `
        + `${last.toFixed(2)} ms of ${late.length} in the last, of ${limit.toFixed(2)} at most; `
        + `without Culvert ${quiet.toFixed(2)} and ${busy.toFixed(2)}`,
    };
  });
}

/** Judges descriptors, counted twice at the same point of a cycle. */
export function judgeDescriptors(
  first: Readonly<Record<string, number>>, last: Readonly<Record<string, number>>,
): Check[] {
  return Object.entries(first).map(([name, count]) => ({
    name: `descriptors, ${name}`, isSound: last[name] === count,
    detail: `${count} at first, ${last[name]} at last`,
  }));
}

function judgeMemory(
  what: string, samples: readonly Sample[], of: (sample: Sample) => Record<string, number>,
): Check[] {
  const seconds = (samples.at(-1)?.seconds ?? 0) - (samples[0]?.seconds ?? 0);
  return Object.keys(samples[0] === undefined ? {} : of(samples[0])).map((name) => {
    const perSecond = slope(samples.map((sample) => [sample.seconds, of(sample)[name] ?? 0]));
    const growth = perSecond * seconds;
    const average = mean(samples.map((sample) => of(sample)[name] ?? 0));
    return {
      name: `${what}, ${name}`, isSound: growth <= GROWTH_LIMIT_BYTES,
      detail: `${mebibytes(average)} MiB on average, ${mebibytes(growth)} MiB in ${
        (seconds / 60).toFixed(1)} minutes, of ${mebibytes(GROWTH_LIMIT_BYTES)} at most`,
    };
  });
}

function judgeDrops(samples: readonly Sample[]): Check {
  const drops = Object.entries(samples.at(-1)?.drops ?? {});
  const unexplained = drops.filter(([name]) => EXPLAINED[name] === undefined);
  return {
    name: 'drops', isSound: unexplained.length === 0,
    detail: drops.map(([name, count]) =>
      `${name} ${count} (${EXPLAINED[name] ?? 'not explained'})`).join('; ') || 'none',
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
