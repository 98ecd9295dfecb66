// `culvert bench micro`: which benches there are, and a run of some of them.

import { checksumBench } from './checksum.bench.ts';
import { deltaBench } from './delta.bench.ts';
import { flowBench } from './flow.bench.ts';
import { moduleBench } from './module.bench.ts';
import { nftBench } from './nft.bench.ts';
import { parseBench } from './parse.bench.ts';
import { pipelineBench } from './pipeline.bench.ts';
import { policyBench } from './policy.bench.ts';
import { describeMachine, type Ratio, type Report } from './report.ts';
import { routeBench } from './route.bench.ts';
import { serviceBench } from './service.bench.ts';
import { ROUNDS, type Effort, type Measured } from './rounds.ts';

/** What benches are made smaller by in tests: every loop once, on tables of a few entries. */
export interface MicroOptions {
  /** Seconds of measuring for each subject. */
  seconds: number;
  /** Part of a bench's or a result's name; the others are left out. */
  filter?: string;
  rounds?: number;
  small?: boolean;
  /** A real routing table for the route bench: a gzipped list of prefixes, one a line. */
  prefixes?: string;
  say: (text: string) => void;
}

interface Bench {
  name: string;
  /** What its results' names begin with. */
  results: string[];
  run: (effort: Effort, small: boolean, prefixes?: string) => Measured | Promise<Measured>;
}

export const BENCHES: Bench[] = [
  { name: 'route', results: ['lpm4', 'lpm6'], run: routeBench },
  { name: 'flow', results: ['flow'], run: flowBench },
  { name: 'parse', results: ['parse/', 'encapsulate/'], run: parseBench },
  { name: 'checksum', results: ['checksum'], run: checksumBench },
  { name: 'pipeline', results: ['outbound', 'inbound'], run: pipelineBench },
  { name: 'policy', results: ['policy/', 'policyMiss/'], run: policyBench },
  { name: 'delta', results: ['policyDelta/'], run: deltaBench },
  { name: 'service', results: ['service/', 'serviceFirst/', 'serviceChange/'], run: serviceBench },
  { name: 'module', results: ['module/'], run: moduleBench },
  { name: 'nft', results: ['nft/'], run: nftBench },
];

/** Runs the benches one after the other. */
export async function runMicro(options: MicroOptions): Promise<Report> {
  const { seconds, say, small } = options;
  const effort: Effort = { seconds, rounds: options.rounds ?? ROUNDS, say };
  const report: Report = { machine: describeMachine(), results: [], ratios: {} };
  for (const bench of selectBenches(options.filter ?? '')) {
    say(`${bench.name}: setting up`);
    const { results, ratios } = await bench.run(effort, small === true, options.prefixes);
    report.results.push(...results);
    Object.assign<Record<string, Ratio>, Record<string, Ratio>>(report.ratios, ratios);
  }
  return report;
}

/** The benches that a filter names. */
export function selectBenches(filter: string): Bench[] {
  return BENCHES.filter(({ name, results }) =>
    [name, ...results].some((text) => text.includes(filter))
    || results.some((text) => filter.startsWith(text)));
}
