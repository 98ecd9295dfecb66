// Verbs for whoever looks after a node: what the running daemon has counted, its packets, the walk
// of one of them, and everything together for whoever is asked for help.

import { Option, type Command } from 'commander';
import type { CaptureOptions } from './capture.ts';
import type { DiagOptions } from './diag.ts';
import type { MetricsOptions } from './metrics.ts';
import type { TraceOptions } from './trace.ts';

/** What these verbs share with the others. */
export interface Shared {
  runtimeOption(): Option;
  outputOption(): Option;
  stopOnSignals(): AbortSignal;
}

export function addOperate(program: Command, shared: Shared): void {
  addMetrics(program, shared);
  addCapture(program, shared);
  addTrace(program, shared);
  addDiag(program, shared);
  addRestart(program, shared);
}

function addRestart(program: Command, { runtimeOption }: Shared): void {
  program.command('restart').description('have another daemon take over from the running one')
    .addOption(runtimeOption())
    .addHelpText('after', '\nThe next one makes everything ready while this one forwards: the '
      + 'program as it is\ninstalled now, and the configuration as it is now. Where it cannot, '
      + 'this one goes on.\n\nExample:\n  culvert restart\n')
    .action(async (options: { runtimeDirectory: string }) =>
      (await import('./restart.ts')).restart(options));
}

function addMetrics(program: Command, { runtimeOption }: Shared): void {
  program.command('metrics').description('what the running daemon has counted')
    .argument('[pattern]', 'a regular expression; without it, all')
    .addOption(new Option('-o, --output <format>', 'table, json or prometheus')
      .choices(['table', 'json', 'prometheus']).default('table'))
    .addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert metrics drop\n'
      + '  culvert metrics -o prometheus\n')
    .action(async (pattern: string | undefined, options: MetricsOptions) =>
      (await import('./metrics.ts')).showMetrics(pattern, options));
}

function addCapture(program: Command, { runtimeOption, stopOnSignals }: Shared): void {
  program.command('capture').description('packets of the running daemon, as pcapng')
    .option('-i, --interface <places...>', 'tun, underlay, drop; default: all of them')
    .requiredOption('-w, --write <file>', 'where to; - is standard output')
    .option('-c, --count <packets>', 'end after so many, or a few more', Number)
    .option('-s, --snap-length <bytes>', 'of each packet at most', Number, 65_535)
    .addOption(runtimeOption())
    .addHelpText('after', '\nDropped packets have the reason as a comment, and their first 240 '
      + 'bytes.\n\nExamples:\n  culvert capture -w node.pcapng\n'
      + '  culvert capture -i drop -w - | tshark -r - -T fields -e frame.comment -e ip.dst\n')
    .action(async (options: CaptureOptions) =>
      (await import('./capture.ts')).capture(options, stopOnSignals()));
}

function addTrace(program: Command, { runtimeOption, outputOption }: Shared): void {
  program.command('trace').description('the walk of one packet through the running node')
    .requiredOption('--from <end>', 'NAMESPACE/POD of this node, or an IP address')
    .requiredOption('--to <end>', 'NAMESPACE/POD, an IP address, or service:NAMESPACE/NAME')
    .requiredOption('--port <port>', 'as 80/TCP, 53/UDP or ICMP')
    .addOption(new Option('--family <family>', 'where both ends have both')
      .choices(['IPv4', 'IPv6']))
    .option('--size <bytes>', 'of the packet\'s payload', Number, 0)
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nNothing is sent, and nothing is counted. Exit status 1 where the '
      + 'packet would be dropped.\n\nExamples:\n'
      + '  culvert trace --from shop/web --to shop/db --port 5432/TCP\n'
      + '  culvert trace --from shop/web --to service:shop/db --port 5432/TCP -o json\n')
    .action(async (options: TraceOptions) => {
      process.exitCode = await (await import('./trace.ts')).trace(options);
    });
}

function addDiag(program: Command, { runtimeOption }: Shared): void {
  program.command('diag').description('one archive of all that says how the daemon is')
    .option('-w, --write <file>', 'a .tar.gz; default: culvert-NODE-TIME.tar.gz here')
    .addOption(runtimeOption())
    .addHelpText('after', '\nKeys, tokens and passwords are left out of it.\n\nExamples:\n'
      + '  culvert diag\n  culvert diag -w /tmp/node.tar.gz\n')
    .action(async (options: DiagOptions) => (await import('./diag.ts')).diag(options));
}
