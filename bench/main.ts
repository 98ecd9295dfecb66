// The benches' own program: `culvert bench` starts it, and so does `npm run bench`.

import { writeFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { CNI_ROUNDS, runCni } from './cni.ts';
import { cniText } from './cni/text.ts';
import { modulePlot } from './module-plot.ts';
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
  prefixes?: string;
}

interface CniArguments {
  output: 'table' | 'json';
  rounds: number;
}

interface PathArguments {
  output: 'table' | 'json';
  rounds: number;
  seconds: number;
  contenders?: string[];
  plot?: string;
  congestion?: string;
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
  const table = options.prefixes === undefined ? {} : { prefixes: options.prefixes };
  const report = await runMicro({ seconds: options.duration, say, ...selected, ...table });
  process.stdout.write(options.output === 'json'
    ? `${JSON.stringify(report)}\n`
    : reportText(report));
  if (options.plot === undefined) return;
  const plot = policyPlot(report) ?? modulePlot(report);
  if (plot === null) throw new Error(`--plot ${options.plot}: no bench of policies was run`);
  writeFileSync(options.plot, plot);
}

/** Told when the process is to end: then it ends with everything that it started. */
function untilInterrupted(): AbortSignal {
  const interrupt = new AbortController();
  const end = (): void => interrupt.abort(new Error('interrupted'));
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(name, end);
  return interrupt.signal;
}

async function cni({ output, rounds }: CniArguments): Promise<void> {
  const report = await runCni({ rounds, say, stop: untilInterrupted() });
  process.stdout.write(output === 'json' ? `${JSON.stringify(report)}\n` : cniText(report));
}

async function path(options: PathArguments): Promise<void> {
  const { output, plot, ...others } = options;
  const report = await runPath({ ...others, say, stop: untilInterrupted() });
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
    .option('--plot <file>', 'draw cost against the number of policies, or of a module, as SVG')
    .option('--prefixes <file>', 'a real routing table: gzipped, a prefix a line')
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
    .option('--congestion <name>', 'congestion control of the streams (default: cubic)')
    .option('--plot <file>', 'draw the ratios, as SVG')
    .addHelpText('after', '\nExamples:\n  culvert bench path\n'
      + '  culvert bench path -o json --plot path.svg\n'
      + '  culvert bench path --rounds 3 --seconds 1 --contenders T1,flannelUdp\n')
    .exitOverride()
    .action(path);
  program.command('cni').description('how long a pod waits for its network, beside bridge')
    .addOption(outputOption())
    .option('--rounds <number>', 'how often everybody takes a turn', parseRounds, CNI_ROUNDS)
    .addHelpText('after', '\nExamples:\n  culvert bench cni\n'
      + '  culvert bench cni -o json --rounds 51\n')
    .exitOverride()
    .action(cni);
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
