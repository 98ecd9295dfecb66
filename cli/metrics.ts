// `culvert metrics`: what /metrics says, over the control socket; all of it, or what matches.

import * as v from 'valibot';
import { askAll } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_USAGE } from './exit.ts';
import { table, type OutputFormat } from './table.ts';

export interface MetricsOptions {
  runtimeDirectory: string;
  output: OutputFormat | 'prometheus';
}

const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;

interface Sample {
  name: string;
  labels: string;
  value: number;
}

/** Prints the metrics whose line has a match of `pattern`, a regular expression. */
export async function showMetrics(
  pattern: string | undefined, { runtimeDirectory, output }: MetricsOptions,
): Promise<void> {
  const wanted = expression(pattern ?? '');
  const lines = await askAll(runtimeDirectory, 'metrics', v.string());
  if (output === 'prometheus') {
    process.stdout.write(withComments(lines, wanted).map((line) => `${line}\n`).join(''));
    return;
  }
  const samples = lines.filter((line) => !line.startsWith('#') && wanted.test(line)).map(sampleOf);
  if (samples.length === 0 && pattern !== undefined) {
    throw new CommandError(EXIT_FAILED, `metrics: none matches ${pattern}`);
  }
  process.stdout.write(output === 'json' ? `${JSON.stringify(samples)}\n`
    : table(['METRIC', 'LABELS', 'VALUE'],
      samples.map(({ name, labels, value }) => [name, labels || '-', String(value)])));
}

function expression(pattern: string): RegExp {
  try {
    return new RegExp(pattern);
  } catch (error) {
    throw new CommandError(EXIT_USAGE, `metrics: ${(error as Error).message}`);
  }
}

/** The samples wanted, each name's with what is said about it. */
function withComments(lines: readonly string[], wanted: RegExp): string[] {
  const chosen: string[] = [];
  let about: string[] = [];
  for (const line of lines) {
    if (line.startsWith('# HELP')) about = [];
    if (line.startsWith('#')) {
      about.push(line);
    } else if (wanted.test(line)) {
      chosen.push(...about, line);
      about = [];
    }
  }
  return chosen;
}

function sampleOf(line: string): Sample {
  const [, name = '', labels = '', value = ''] = SAMPLE.exec(line) ?? [];
  return { name, labels, value: Number(value) };
}
