// The benches' own program: `culvert bench` starts it, and so does `npm run bench`.

import { writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { BENCHES, runMicro, selectBenches } from './micro.ts';
import { CONTENDERS, MissingError, PATH_ROUNDS, PATH_SECONDS, runPath } from './path.ts';
import { pathPlot } from './path/plot.ts';
import { pathText } from './path/text.ts';
import { policyPlot } from './plot.ts';
import { reportText } from './report.ts';
import { runSyncBench, syncText } from './sync.ts';
import { LARGE } from './sync/cluster.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_NO_PERMISSION = 77;
const DEFAULT_SECONDS = 3;
const ROUNDS_LIMIT = 1000;
const SYNC_CHANGES = 500;
const SYNC_REST_MS = 10_000;

interface MicroArguments {
  output: 'table' | 'json';
  duration: number;
  filter?: string;
  plot?: string;
}

interface PathArguments {
  output: 'table' | 'json';
  rounds: number;
  seconds: number;
  contenders?: string[];
  plot?: string;
}

interface SyncArguments {
  output: 'table' | 'json';
  pods: number;
  nodes: number;
  policies: number;
  changes: number;
  rival: boolean;
  rivalFolder: string;
}

function parseCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1) throw new InvalidArgumentError('a number above 0');
  return count;
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0 && seconds <= 3600)) throw new InvalidArgumentError('seconds, up to 3600');
  return seconds;
}

function parseRounds(text: string): number {
  const rounds = Number(text);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > ROUNDS_LIMIT) {
    throw new InvalidArgumentError(`a number from 1 to ${ROUNDS_LIMIT}`);
  }
  return rounds;
}

function parseContenders(text: string): string[] {
  const names = text.split(',').map((name) => name.trim()).filter((name) => name !== '');
  const unknown = names.find((name) => !CONTENDERS.includes(name));
  if (unknown !== undefined || names.length === 0) {
    throw new InvalidArgumentError(`${unknown ?? 'nobody'}; there are ${CONTENDERS.join(', ')}`);
  }
  return names;
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

/** Ends with everything that it started, also when it is told to. */
async function path(options: PathArguments): Promise<void> {
  const { output, plot, ...others } = options;
  const interrupt = new AbortController();
  const end = (): void => interrupt.abort(new Error('interrupted'));
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, end);
  const report = await runPath({ ...others, say, stop: interrupt.signal });
  process.stdout.write(output === 'json' ? `${JSON.stringify(report)}\n` : pathText(report));
  if (plot === undefined) return;
  const drawn = pathPlot(report);
  if (drawn === null) throw new Error(`--plot ${plot}: there are no ratios`);
  writeFileSync(plot, drawn);
}

async function sync(options: SyncArguments): Promise<void> {
  const { output, pods, nodes, policies, changes } = options;
  const rivalFolder = options.rival ? options.rivalFolder : null;
  const size = { ...LARGE, pods, nodes, policies };
  const report = await runSyncBench({
    size, changes, rivalFolder, restMs: SYNC_REST_MS, say,
  });
  process.stdout.write(output === 'json' ? `${JSON.stringify(report)}\n` : syncText(report));
}

const outputOption = (): Option => new Option('-o, --output <format>', 'table or json')
  .choices(['table', 'json']).default('table');

async function main(): Promise<void> {
  const program = new Command('culvert bench').description('what packets cost, as ratios')
    .exitOverride();
  program.command('micro').description('batch calls of the core, in interleaved rounds')
    .addOption(outputOption())
    .option('--duration <seconds>', 'measuring time for each figure', parseSeconds,
      DEFAULT_SECONDS)
    .option('--filter <name>', 'only benches whose name, or results, contain it')
    .option('--plot <file>', 'draw cost against the number of policies, as SVG')
    .addHelpText('after', '\nExamples:\n  culvert bench micro\n'
      + '  culvert bench micro -o json --filter policy\n'
      + '  culvert bench micro --filter policy --plot policy.svg\n')
    .exitOverride()
    .action(micro);
  program.command('path').description('whole paths through namespaces, beside rivals')
    .addOption(outputOption())
    .option('--rounds <number>', 'how often everybody takes a turn', parseRounds, PATH_ROUNDS)
    .option('--seconds <seconds>', 'of each transfer', parseSeconds, PATH_SECONDS)
    .option('--contenders <names>', `only these: ${CONTENDERS.join(', ')}`, parseContenders)
    .option('--plot <file>', 'draw the ratios, as SVG')
    .addHelpText('after', '\nExamples:\n  culvert bench path\n'
      + '  culvert bench path -o json --plot path.svg\n'
      + '  culvert bench path --rounds 3 --seconds 1 --contenders T1,flannelUdp\n')
    .exitOverride()
    .action(path);
  program.command('sync').description('a large cluster: memory, and how long changes take')
    .addOption(outputOption())
    .option('--pods <number>', 'of the cluster', parseCount, LARGE.pods)
    .option('--nodes <number>', 'of the cluster', parseCount, LARGE.nodes)
    .option('--policies <number>', 'of the cluster', parseCount, LARGE.policies)
    .option('--changes <number>', 'that are timed', parseCount, SYNC_CHANGES)
    .option('--no-rival', 'leave out the informers of @kubernetes/client-node')
    .option('--rival-folder <path>', 'where that is installed', '.')
    .addHelpText('after', '\nExamples:\n  culvert bench sync\n'
      + '  culvert bench sync -o json --pods 10000 --no-rival\n')
    .exitOverride()
    .action(sync);
  await program.parseAsync();
}

main().catch((error: unknown) => {
  const isCommander = error instanceof Error && 'code' in error && 'exitCode' in error;
  if (isCommander) {
    process.exitCode = (error as { exitCode: number }).exitCode === 0 ? 0 : EXIT_USAGE;
    return;
  }
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = error instanceof MissingError ? EXIT_NO_PERMISSION : EXIT_FAILED;
});
