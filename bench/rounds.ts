// Interleaved rounds: all subjects of a family take short turns, many in every round, so that what
// disturbs the machine disturbs all of them. A subject's cost in a round is the lower quartile of
// its samples, because what else runs only ever adds. A ratio is taken within each round; its
// median, least and greatest over the rounds are reported. benchmark.js takes the samples.

import Benchmark from 'benchmark';
import { median, quantile, round, summarise, type Measurement, type Ratio } from './report.ts';

/** The least number of rounds that a ratio is taken over. */
export const ROUNDS = 9;
/** A sample is about this long, so that many of them see no other process. */
const SAMPLE_SECONDS = 0.002;
/** Samples in a turn. The first ones find the caches full of the others' work. */
const SAMPLES = 20;

/** Something to measure. */
export interface Subject {
  name: string;
  /** Operations in one call of run(). */
  opsPerRun: number;
  run: () => void;
  /** Does a fixed piece of its work and says what came out. Called before anything is timed. */
  hash: () => string;
  /** Throws where run() did not do, `runs` times, what it should. Called after everything. */
  check?: (runs: number) => void;
  /** A subject that does the same another way: their hashes must be equal. */
  sameAs?: string;
  /** A subject whose cost is no part of this one's: that of making the input. */
  without?: string;
  /** Left out of the report. */
  hidden?: boolean;
}

/** A ratio of two subjects' costs. A twin's cost to ours is our speed against the twin's. `isExtra`
 * takes their difference instead: what the one costs more, in nanoseconds. */
export interface RatioSpec {
  name: string;
  cost: string;
  to: string;
  isExtra?: boolean;
}

/** How long, and where to say how far it is. */
export interface Effort {
  /** Seconds of measuring for each subject, all rounds together. */
  seconds: number;
  rounds: number;
  say: (text: string) => void;
}

export interface Measured {
  results: Measurement[];
  ratios: Record<string, Ratio>;
}

/** What is known of a subject. `samples` are of the round at hand, `costs` of all rounds before. */
interface Track {
  subject: Subject;
  samples: number[];
  costs: number[];
  runs: number;
  hash: string;
}

/** Measures a family of subjects. */
export function measure(family: string, subjects: Subject[], ratios: RatioSpec[], effort: Effort):
Measured {
  const tracks = subjects.map((subject): Track =>
    ({ subject, samples: [], costs: [], runs: 0, hash: subject.hash() }));
  expectSame(tracks);
  const seconds = effort.seconds / effort.rounds;
  const sample = Math.min(SAMPLE_SECONDS, seconds / SAMPLES);
  const turns = Math.max(Math.round(seconds / (sample * SAMPLES)), 1);
  for (const track of tracks) takeTurn(track, sample);
  for (let index = 0; index < effort.rounds; index += 1) {
    effort.say(`${family}: round ${index + 1} of ${effort.rounds}`);
    for (const track of tracks) track.samples = [];
    for (let turn = 0; turn < turns; turn += 1) {
      for (const track of tracks) takeTurn(track, sample);
    }
    for (const { subject, samples, costs } of tracks) {
      costs.push((quantile(samples, 0.25) * 1e9) / subject.opsPerRun);
    }
  }
  for (const { subject, runs } of tracks) subject.check?.(runs);
  return summariseAll(tracks, ratios);
}

/** Throws where a subject does not do the same as the one it stands beside. */
function expectSame(tracks: Track[]): void {
  for (const { subject, hash } of tracks) {
    if (subject.sameAs === undefined) continue;
    const other = tracks.find((track) => track.subject.name === subject.sameAs);
    if (other?.hash === hash) continue;
    throw new Error(`${subject.name}: hash ${hash}, ${subject.sameAs} has ${String(other?.hash)}`);
  }
}

/** One turn of a subject: SAMPLES stretches of runs, each `seconds` long. */
function takeTurn(track: Track, seconds: number): void {
  const { subject } = track;
  const bench = new Benchmark(subject.name, () => {
    track.runs += 1;
    subject.run();
  }, { minSamples: SAMPLES, minTime: seconds, maxTime: Number.MIN_VALUE });
  bench.run();
  const failure: unknown = bench.error;
  if (failure !== undefined) throw new Error(`${subject.name}: ${String(failure)}`);
  track.samples.push(...bench.stats.sample);
}

function summariseAll(tracks: Track[], ratios: RatioSpec[]): Measured {
  const costs = new Map(tracks.map((track) => [track.subject.name, netCosts(track, tracks)]));
  const costsOf = (name: string): number[] => costs.get(name) ?? [];
  const shown = tracks.filter(({ subject }) => subject.hidden !== true);
  return {
    results: shown.map(({ subject, runs, hash }) => ({
      name: subject.name,
      nsPerOp: round(median(costsOf(subject.name)), 3),
      ops: runs * subject.opsPerRun,
      hash,
    })),
    ratios: Object.fromEntries(ratios.map(({ name, cost, to, isExtra }) => [
      name,
      summarise(costsOf(cost).map((value, index) => {
        const base = costsOf(to)[index] ?? NaN;
        return isExtra === true ? value - base : value / base;
      })),
    ])),
  };
}

/** Costs by round, in nanoseconds, without the input's. */
function netCosts({ subject, costs }: Track, all: Track[]): number[] {
  if (subject.without === undefined) return costs;
  const input = all.find((other) => other.subject.name === subject.without);
  if (input === undefined) throw new Error(`${subject.name}: no subject ${subject.without}`);
  return costs.map((cost, index) => cost - (input.costs[index] ?? NaN));
}
