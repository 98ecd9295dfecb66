// The benches' own program: `culvert bench` starts it, and so does `npm run bench`.

import { writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { BENCHES, runMicro, selectBenches } from './micro.ts';
import { policyPlot } from './plot.ts';
import { reportText } from './report.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const DEFAULT_SECONDS = 3;

interface MicroArguments {
  output: 'table' | 'json';
  duration: number;
  filter?: string;
  plot?: string;
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0 && seconds <= 3600)) throw new InvalidArgumentError('seconds, up to 3600');
  return seconds;
}

/** Progress goes to standard error; standard output is the report's. */
function say(text: string): void {
  process.stderr.write(`bench: ${text}\n`);
}

async function micro(options: MicroArguments): Promise<void> {
  const { filter } = options;
  if (filter !== undefined && selectBenches(filter).length === 0) {
    const names = BENCHES.map(({ name }) => name).join(', ');
    say(`--filter ${filter} names no bench; there are ${names}`);
    process.exitCode = EXIT_USAGE;
    return;
  }
  const selected = filter === undefined ? {} : { filter };
  const report = await runMicro({ seconds: options.duration, say, ...selected });
  process.stdout.write(options.output === 'json'
    ? `${JSON.stringify(report)}\n`
    : reportText(report));
  if (options.plot === undefined) return;
  const plot = policyPlot(report);
  if (plot === null) throw new Error(`--plot ${options.plot}: no bench of policies was run`);
  writeFileSync(options.plot, plot);
}

async function main(): Promise<void> {
  const program = new Command('culvert bench').description('what packets cost, as ratios')
    .exitOverride();
  program.command('micro').description('batch calls of the core, in interleaved rounds')
    .addOption(new Option('-o, --output <format>', 'table or json').choices(['table', 'json'])
      .default('table'))
    .option('--duration <seconds>', 'measuring time for each figure', parseSeconds,
      DEFAULT_SECONDS)
    .option('--filter <name>', 'only benches whose name, or results, contain it')
    .option('--plot <file>', 'draw cost against the number of policies, as SVG')
    .addHelpText('after', '\nExamples:\n  culvert bench micro\n'
      + '  culvert bench micro -o json --filter policy\n'
      + '  culvert bench micro --filter policy --plot policy.svg\n')
    .exitOverride()
    .action(micro);
  await program.parseAsync();
}

main().catch((error: unknown) => {
  const isCommander = error instanceof Error && 'code' in error && 'exitCode' in error;
  if (isCommander) {
    process.exitCode = (error as { exitCode: number }).exitCode === 0 ? 0 : EXIT_USAGE;
    return;
  }
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = EXIT_FAILED;
});
