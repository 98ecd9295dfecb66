// What a benchmark reports, and how people see it. The JSON's shape is a contract.

import { cpus, totalmem, release } from 'node:os';

/** The machine's description: figures mean nothing without it. */
export interface Machine {
  cpu: string;
  cpus: number;
  memoryBytes: number;
  arch: string;
  kernel: string;
  node: string;
  v8: string;
}

/** One thing measured. `nsPerOp` is the median over the rounds, `ops` what was done in all of them,
 * `hash` proves that it was the same work in every run. */
export interface Measurement {
  name: string;
  nsPerOp: number;
  ops: number;
  hash: string;
}

/** A ratio of costs, taken in each round. */
export interface Ratio {
  median: number;
  min: number;
  max: number;
  rounds: number;
}

export interface Report {
  machine: Machine;
  results: Measurement[];
  ratios: Record<string, Ratio>;
}

export function describeMachine(): Machine {
  const processors = cpus();
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cpus: processors.length,
    memoryBytes: totalmem(),
    arch: process.arch,
    kernel: release(),
    node: process.version,
    v8: process.versions.v8,
  };
}

/** Median, least and greatest of a ratio's rounds. */
export function summarise(values: number[]): Ratio {
  const sorted = [...values].sort((one, other) => one - other);
  const at = (index: number): number => round(sorted[index] ?? NaN, 4);
  return {
    median: round(median(sorted), 4), min: at(0), max: at(sorted.length - 1), rounds: sorted.length,
  };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >>> 1;
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? NaN)) / 2;
}

/** The value that the part `share` of the values lies below. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(Math.floor(sorted.length * share), sorted.length - 1)] ?? NaN;
}

/** Rounds to `digits` behind the point. */
export function round(value: number, digits: number): number {
  const factor = 10 ** digits;
  return Math.round(value * factor) / factor;
}

/** The report as tables for people. */
export function reportText({ machine, results, ratios }: Report): string {
  const { cpu, cpus: count, memoryBytes, arch, kernel, node, v8 } = machine;
  const memory = Math.round(memoryBytes / (1024 ** 3));
  return [
    `${cpu}, ${count} CPUs, ${memory} GiB, Linux ${kernel} ${arch}, Node.js ${node}, V8 ${v8}\n`,
    columns([
      ['BENCHMARK', 'NS/OP', 'OPS', 'HASH'],
      ...results.map(({ name, nsPerOp, ops, hash }) => [name, nsPerOp.toFixed(2), `${ops}`, hash]),
    ]),
    columns([
      ['RATIO', 'MEDIAN', 'MIN', 'MAX', 'ROUNDS'],
      ...Object.entries(ratios).map(([name, { median: middle, min, max, rounds }]) =>
        [name, middle.toFixed(3), min.toFixed(3), max.toFixed(3), `${rounds}`]),
    ]),
  ].join('\n');
}

function columns(rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) => row.map((cell, column) =>
    (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
    .join('   ')).join('\n').concat('\n');
}
