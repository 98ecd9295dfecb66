#!/usr/bin/env node
// The `culvert` command: verbs, options, help. Each verb's work is in a file of its own, loaded
// when it is asked for: a daemon that starts again is not kept waiting by what it has no use for.

import { setFlagsFromString } from 'node:v8';
import { Command, Option } from 'commander';
import { DEFAULTS, flagName, fromText, setAt, settingPaths } from '../host/config.ts';
import type { Settings } from '../host/config.ts';
import type { InstallOptions } from '../cni/install.ts';
import type { ClusterOptions } from '../sync/main.ts';
import { CommandError, EXIT_FAILED, EXIT_OK, EXIT_USAGE } from './exit.ts';
import type { ObserveOptions } from './observe.ts';
import type { AddOptions } from './module.ts';
import type { BuildOptions, NewOptions } from './module/create.ts';
import type { VerifyOptions } from './module/verify.ts';
import { addOperate } from './operate.ts';
import type { ExplainOptions, PolicyOptions, TestOptions } from './policy.ts';
import type { ShowOptions } from './show.ts';
import type { OutputFormat } from './table.ts';
import { VERSION } from './version.ts';

/** Flags of V8 for programs that live beside pods on a small board: young objects get no more room
 * than at first, and, where there is time, all of the heap grows in small steps. Without these
 * twice as much is held as is used. */
const SMALL_YOUNG_SPACE = '--semi-space-growth-factor=1';
const SMALL_STEPS = '--optimize-for-size';

interface SyncVerbOptions {
  source: string;
  nodeName: string;
  runtimeDirectory: string;
  logLevel: string;
  stopOnStdinEnd?: boolean;
  kubeconfig?: string;
  context?: string;
  apiServer?: string;
  profile: ClusterOptions['profile'];
  netConf: string;
  calicoMode: ClusterOptions['calicoMode'];
}

const stop = new AbortController();

function outputOption(): Option {
  return new Option('-o, --output <format>', 'table or json').choices(['table', 'json'])
    .default('table');
}

function runtimeOption(): Option {
  return new Option('--runtime-directory <path>', 'where the daemon keeps its sockets')
    .env('CULVERT_RUNTIME_DIRECTORY').default(DEFAULTS.runtimeDirectory);
}

/** Ends long-running verbs on SIGTERM and SIGINT; a second signal ends the process at once. It does
 * what it does without us: process.exit() aborts over a worker that is in a system call. */
function stopOnSignals(): AbortSignal {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (!stop.signal.aborted) return stop.abort();
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    });
  }
  return stop.signal;
}

/** Ends long-running verbs when whoever started us is gone, even by SIGKILL. */
function stopOnStdinEnd(): void {
  process.stdin.resume().on('end', () => stop.abort()).on('error', () => stop.abort());
  stop.signal.addEventListener('abort', () => process.stdin.destroy());
}

function addRun(program: Command): void {
  const run = program.command('run').description('run the node daemon')
    .option('--config <file>', 'YAML or JSON; default /etc/culvert/config.yaml where it exists')
    .option('--stop-on-stdin-end', 'stop when standard input ends: for a parent that may die')
    .addHelpText('after', '\nEvery option is also a field of the file and a CULVERT_* variable; '
      + 'flags win over variables, variables over the file.\n\nExamples:\n'
      + '  culvert run --config /etc/culvert/config.yaml\n'
      + '  culvert run --node-name edge-1 --underlay-interface eth0 '
      + '--pod-networks 10.244.0.0/16,fd00:10:244::/48\n');
  for (const { path, example } of settingPaths()) {
    const initial = Array.isArray(example) ? example.join(',') : String(example);
    const about = initial === '' ? path.join('.') : `${path.join('.')} (default ${initial})`;
    run.option(`${flagName(path)} <value>`, about);
  }
  run.action(async (options: Record<string, string | boolean | undefined>) => {
    const flags: Settings = {};
    for (const { path, example } of settingPaths()) {
      const given = options[path.map((name, at) =>
        (at === 0 ? name : `${name.charAt(0).toUpperCase()}${name.slice(1)}`)).join('')];
      if (typeof given === 'string') setAt(flags, path, fromText(given, example));
    }
    if (options['stopOnStdinEnd'] === true) stopOnStdinEnd();
    setFlagsFromString(SMALL_YOUNG_SPACE);
    const file = typeof options['config'] === 'string' ? options['config'] : undefined;
    const { runDaemon } = await import('./run.ts');
    await runDaemon(file, process.env, flags, {
      stop: stopOnSignals(), onReload: (work) => void process.on('SIGHUP', work),
    });
  });
}

function addSync(program: Command): void {
  program.command('sync').description('run the sidecar that tells the daemon of the cluster')
    .requiredOption('--source <source>',
      'kubernetes, or file:PATH, a file or folder of Kubernetes objects')
    .addOption(new Option('--node-name <name>', 'the node to speak for').env('CULVERT_NODE_NAME')
      .makeOptionMandatory())
    .addOption(runtimeOption())
    .option('--log-level <level>', 'debug, info, warn or error', 'info')
    .option('--stop-on-stdin-end', 'stop when standard input ends: for a parent that may die')
    .addHelpText('after', '\nExample:\n'
      + '  culvert sync --source file:/etc/culvert/cluster --node-name edge-1\n'
      + '  culvert sync --source kubernetes --api-server https://192.0.2.1:6443 '
      + '--node-name edge-1\n')
    .option('--kubeconfig <file>', 'how to reach the API server; default: KUBECONFIG, or the '
      + 'service account of the pod')
    .option('--context <name>', 'of the kubeconfig, where it is not the current one')
    .option('--api-server <url>', 'instead of the address found: that of the Service works only '
      + 'once Services do')
    .addOption(new Option('--profile <profile>', 'whose nodes the others are: these are told of '
      + 'this one').choices(['flannel', 'calico', 'none']).default('none'))
    .option('--net-conf <place>', 'net-conf.json: FILE or configmap:NAMESPACE/NAME; default: '
      + 'flannel\'s own ConfigMap', '')
    .addOption(new Option('--calico-mode <mode>', 'how Calico\'s nodes carry packets of pods; '
      + 'auto: as its IPPools say').choices(['auto', 'vxlan', 'vxlan-cross-subnet',
        'ipip', 'ipip-cross-subnet', 'none']).default('auto'))
    .action(async (options: SyncVerbOptions) => {
      if (options.stopOnStdinEnd === true) stopOnStdinEnd();
      for (const flag of [SMALL_YOUNG_SPACE, SMALL_STEPS]) setFlagsFromString(flag);
      const { runSync } = await import('../sync/main.ts');
      const { makeLog } = await import('./log.ts');
      const { Heap } = await import('../host/heap.ts');
      const heap = new Heap();
      await runSync({
        source: options.source,
        socket: `${options.runtimeDirectory}/sync.sock`,
        nodeName: options.nodeName,
        version: VERSION,
        signal: stopOnSignals(),
        cluster: { ...options, environment: process.env },
        sender: { onWhole: () => heap.settleSoon() },
      }, makeLog('sync', options.logLevel));
    });
}

function addHolder(program: Command): void {
  program.command('holder')
    .description('keep a daemon\'s devices and connections while none lives; it starts one itself')
    .addOption(runtimeOption())
    .option('--away-seconds <seconds>', 'end after so long without a daemon; 0: as it wishes', '0')
    .addHelpText('after', '\nFor daemons that cannot leave a process behind: run it in a container '
      + 'of its own, with the\ndaemon\'s runtime directory.\n\nExample:\n'
      + '  culvert holder --runtime-directory /run/culvert\n')
    .action(async (options: { runtimeDirectory: string; awaySeconds: string }) => {
      const { runHolder } = await import('../host/holder.ts');
      const { holderPath } = await import('../host/handover.ts');
      runHolder({ socketPath: holderPath(options), awayMs: Number(options.awaySeconds) * 1000 });
    });
}

/** Verbs of show.ts that take nothing but options. */
type ListVerb = 'showStatus' | 'showPeers' | 'showRoutes' | 'showEndpoints';

function addService(program: Command): void {
  const service = program.command('service').description('Services that the running daemon serves');
  service.command('list').description('their addresses, ports, and how many backends are ready')
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert service list\n  culvert service list -o json\n')
    .action(async (options: ShowOptions) => (await import('./service.ts')).showServices(options));
  service.command('get').description('one of them, with its backends')
    .argument('<namespace/name>').addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExample:\n  culvert service get shop/web\n')
    .action(async (name: string, options: ShowOptions) =>
      (await import('./service.ts')).showService(name, options));
}

function addShow(program: Command): void {
  const show = (
    parent: Command, name: string, about: string, work: ListVerb,
  ): void => {
    const words = parent === program ? name : `${parent.name()} ${name}`;
    parent.command(name).description(about).addOption(outputOption()).addOption(runtimeOption())
      .addHelpText('after', `\nExamples:\n  culvert ${words}\n  culvert ${words} -o json\n`)
      .action(async (options: ShowOptions) => (await import('./show.ts'))[work](options));
  };
  show(program, 'status', 'how the running daemon is: devices, sync, drops, tables', 'showStatus');
  const peer = program.command('peer').description('remote nodes');
  show(peer, 'list', 'tunnels to remote nodes, with what went through them', 'showPeers');
  const route = program.command('route').description('routes of the core');
  show(route, 'list', 'all routes in force', 'showRoutes');
  route.command('get').description('the route that the core finds for an address')
    .argument('<address>').addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExample:\n  culvert route get 10.244.2.9\n')
    .action(async (address: string, options: ShowOptions) =>
      (await import('./show.ts')).showRoute(address, options));
  const endpoint = program.command('endpoint').description('pods attached to this node');
  show(endpoint, 'list', 'attached pods, with what they sent and got', 'showEndpoints');
}

function addObserve(program: Command): void {
  program.command('observe').description('what the running daemon judged: allowed and denied')
    .option('-f, --follow', 'go on with what is judged from now on')
    .option('--last <count>', 'how many of those judged before', Number, 20)
    .addOption(new Option('--verdict <verdict>').choices(['allowed', 'denied']))
    .addOption(new Option('--direction <direction>').choices(['ingress', 'egress']))
    .option('--pod <namespace/name>', 'at either end')
    .option('--from-pod <namespace/name>')
    .option('--to-pod <namespace/name>')
    .option('--ip <address>', 'at either end')
    .option('--module <name>', 'the policy module that decided')
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert observe -f --verdict denied\n'
      + '  culvert observe --last 100 --to-pod data/db-0 -o json\n'
      + '  culvert observe -f --module sni-allow\n')
    .action(async (options: ObserveOptions) => {
      const { observe } = await import('./observe.ts');
      await observe({ ...options, follow: options.follow === true }, stopOnSignals());
    });
}

function addClear(program: Command): void {
  program.command('clear').description('take away the guard routes that a stopped daemon leaves')
    .addOption(runtimeOption())
    .addHelpText('after', '\nWithout them, packets for pods leave by the node\'s default route.'
      + '\n\nExample:\n  culvert clear\n')
    .action(async (options: { runtimeDirectory: string }) =>
      (await import('./clear.ts')).clear(options));
}

function addDoctor(program: Command): void {
  program.command('doctor').description('what this kernel offers, what is wrong, how to mend it')
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert doctor\n  culvert doctor -o json\n')
    .action(async (options: ShowOptions) => {
      process.exitCode = await (await import('./doctor.ts')).doctor(options);
    });
}

interface DemoFlags {
  output: OutputFormat;
  keep?: boolean;
  cluster?: string;
  nodes?: number;
  folder?: string;
  dns?: string;
}

function addDemo(program: Command): void {
  program.command('demo').description('nodes in namespaces of this machine, real traffic')
    .addOption(outputOption())
    .option('--keep', 'leave it running until interrupted')
    .option('--cluster <file>', 'Kubernetes objects to use instead of deploy/demo/cluster.yaml')
    .option('--nodes <count>', 'only the first so many of its nodes, and what runs there', Number)
    .option('--dns <program>', 'the dnsmasq to run as the cluster\'s DNS, not the machine\'s')
    .option('--folder <path>', 'with --keep: makes a link there to what belongs to nodes and pods')
    .addHelpText('after', '\nExamples:\n  culvert demo\n  culvert demo -o json\n'
      + '  culvert demo --nodes 2\n  culvert demo --keep --folder lab\n')
    .action(async (options: DemoFlags) => {
      const { demo } = await import('./demo.ts');
      process.exitCode = await demo({ ...options, keep: options.keep === true }, stopOnSignals());
    });
}

function objectsOption(): Option {
  return new Option('--objects <paths...>', 'files and folders of Kubernetes objects, YAML or JSON')
    .makeOptionMandatory();
}

function legacyOption(): Option {
  return new Option('--legacy-annotation',
    'isolate namespaces by the annotation net.beta.kubernetes.io/network-policy');
}

function addPolicy(program: Command): void {
  const policy = program.command('policy').description('network policy, tested offline');
  policy.command('test').description('verdicts on flows, by the core that forwards')
    .addOption(objectsOption())
    .requiredOption('--flows <file>', '{"flows": [{"id", "src", "dst", "protocol", "port"}, ...]}')
    .option('--expect <file>', 'what is expected; exit status 1 and a list where it differs')
    .addOption(moduleOption()).addOption(legacyOption()).addOption(outputOption())
    .addHelpText('after', '\nAn end is {"pod": "namespace/name"}, {"ip": "..."} or '
      + '{"node": "name"}; a flow\nbetween ends with IPv4 and IPv6 says which: "family": "IPv6". '
      + 'Expected are\n{"id": "allow", ...} or results as this command prints them.\n\nExamples:\n'
      + '  culvert policy test --objects cluster/ --flows flows.json\n'
      + '  culvert policy test --objects pods.yaml policies.yaml --flows flows.json '
      + '--expect expected.json -o json\n'
      + '  culvert policy test --objects cluster/ --flows flows.json '
      + '--module policy.wasm,config=policy.yaml\n')
    .action(async (options: TestOptions) => {
      process.exitCode = options.module === undefined
        ? await (await import('./policy.ts')).testPolicy(options)
        : await (await import('./policy/watched.ts')).runWatched({ verb: 'test', options });
    });
  policy.command('explain').description('why a flow is allowed or denied')
    .addOption(objectsOption())
    .requiredOption('--from <end>', 'NAMESPACE/POD, an IP address or node:NAME')
    .requiredOption('--to <end>', 'likewise, or service:NAMESPACE/NAME')
    .requiredOption('--port <port>', 'as 80/TCP, 53/UDP or ICMP')
    .addOption(new Option('--family <family>', 'where both ends have both')
      .choices(['IPv4', 'IPv6']))
    .addOption(moduleOption()).addOption(legacyOption()).addOption(outputOption())
    .addHelpText('after', '\nExamples:\n'
      + '  culvert policy explain --objects cluster/ --from shop/web --to shop/db --port 5432/TCP\n'
      + '  culvert policy explain --objects cluster/ --from 192.0.2.7 --to shop/web --port ICMP\n')
    .action(async (options: ExplainOptions) => {
      if (options.module === undefined) {
        return (await import('./policy.ts')).explainPolicy(options);
      }
      await (await import('./policy/watched.ts')).runWatched({ verb: 'explain', options });
    });
  policy.command('list')
    .description('policies of objects in the order in which they count, or of the running daemon')
    .addOption(objectsOption().makeOptionMandatory(false))
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert policy list --objects cluster/\n'
      + '  culvert policy list                       # what this node enforces now\n')
    .action(async (options: PolicyOptions & ShowOptions) => {
      const { listPolicies, listRules } = await import('./policy.ts');
      await ((options.objects as string[] | undefined) === undefined
        ? listRules(options) : listPolicies(options));
    });
}

function moduleOption(): Option {
  return new Option('--module <file>', 'a policy module, as FILE or FILE,config=PATH,may-allow: '
    + 'with any option of module add; may be given again')
    .argParser((text: string, before: string[] | undefined) => [...before ?? [], text]);
}

function memoryOption(): Option {
  return new Option('--memory <bytes>', 'what it may have, as 256Ki or 16Mi');
}

function allowOption(): Option {
  return new Option('--allow <imports>', 'what it may import besides culvert:policy/host, as clock '
    + 'or wasi-cli; separated by commas, or given again')
    .argParser((text: string, before: string[] | undefined) =>
      [...before ?? [], ...text.split(',')]);
}

function addModule(program: Command): void {
  const module = program.command('module').description('policy modules: rules of your own');
  module.command('list').description('modules of the running daemon in the order they are asked in')
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert module list\n  culvert module list -o json\n')
    .action(async (options: ShowOptions) => (await import('./module.ts')).listModules(options));
  module.command('add').description('load a module, or another version of it, while traffic flows')
    .argument('<file>', 'a component; - reads standard input')
    .option('--name <name>', 'default: what it calls itself')
    .option('--order <number>', 'its place among the modules, 0 being asked first')
    .option('--config <file>', 'for the module to read')
    .addOption(new Option('--failure <verdict>', 'the verdict where it fails')
      .choices(['deny', 'pass', 'allow']).default('deny'))
    .option('--may-allow', 'its allow passes without NetworkPolicy being asked')
    .option('--per-packet', 'ask it about each packet, if it wishes so')
    .addOption(allowOption()).addOption(memoryOption())
    .addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExamples:\n  culvert module add policy.wasm\n'
      + '  culvert module add sni-allow.wasm --order 0 --config hosts.txt\n'
      + '  culvert module add rate-gate.wasm --allow clock --failure pass --memory 4Mi\n')
    .action(async (file: string, options: AddOptions) =>
      (await import('./module.ts')).addModule(file, options));
  module.command('remove').description('take a module out of the running daemon')
    .argument('<name>').addOption(outputOption()).addOption(runtimeOption())
    .addHelpText('after', '\nExample:\n  culvert module remove sni-allow\n')
    .action(async (name: string, options: ShowOptions) =>
      (await import('./module.ts')).removeModule(name, options));
  addModuleTools(module);
}

/** Those that need no daemon. */
function addModuleTools(module: Command): void {
  module.command('verify').description('what a component is, and whether a daemon would take it')
    .argument('<file>').addOption(allowOption()).addOption(memoryOption())
    .addOption(outputOption())
    .addHelpText('after', '\nExit status 1 where it would be refused.\n\nExamples:\n'
      + '  culvert module verify policy.wasm\n  culvert module verify policy.wasm -o json\n')
    .action(async (file: string, options: VerifyOptions) => {
      process.exitCode = await (await import('./module/verify.ts')).verifyModule(file, options);
    });
  module.command('new').description('make a folder with a module to start from')
    .argument('<folder>')
    .addOption(new Option('--language <language>', 'AssemblyScript, C or Rust')
      .choices(['as', 'c', 'rust']).default('as'))
    .option('--from <example>', 'a copy of one of the examples instead, as sni-allow')
    .addHelpText('after', '\nExamples:\n  culvert module new my-policy\n'
      + '  culvert module new my-policy --language c\n'
      + '  culvert module new my-hosts --from sni-allow\n')
    .action(async (folder: string, options: NewOptions) =>
      (await import('./module/create.ts')).createModule(folder, options));
  module.command('build').description('make a component of such a folder')
    .argument('<folder>')
    .option('-o, --output <file>', 'where to put it; default: a file named as the folder, in it. '
      + 'With json or table: how to say what was built', 'table')
    .option('--compiler <program>', 'clang or rustc, where they have other names')
    .option('--linker <program>', 'wasm-ld, where it has another name')
    .addHelpText('after', '\nExamples:\n  culvert module build my-policy\n'
      + '  culvert module build my-policy -o policy.wasm\n'
      + '  culvert module build my-c-policy --compiler clang-19\n')
    .action(async (folder: string, options: BuildOptions) =>
      (await import('./module/create.ts')).compileModule(folder, options));
}

function binOption(): Option {
  return new Option('--bin-directory <path>', 'where the runtime looks for plugins')
    .default('/opt/cni/bin');
}

function configOption(): Option {
  return new Option('--config-directory <path>', 'where the runtime looks for networks')
    .default('/etc/cni/net.d');
}

function addCni(program: Command): void {
  const cni = program.command('cni').description('the CNI plugin, as container runtimes call it')
    .addHelpText('after', '\nWithout a verb it reads CNI_COMMAND and the other variables of the '
      + 'CNI specification.\n')
    .action(async () => {
      const { serveRuntime } = await import('./cni.ts');
      process.exitCode = await serveRuntime(process.env);
    });
  cni.command('install').description('put plugin and network configuration in their places')
    .addOption(binOption()).addOption(configOption()).addOption(runtimeOption())
    .option('--network-name <name>', 'of the network, as the runtime shows it', 'culvert')
    .option('--portmap', 'chain the portmap plugin, for hostPort')
    .addHelpText('after', '\nExamples:\n  culvert cni install\n'
      + '  culvert cni install --portmap --config-directory /etc/cni/net.d\n')
    .action(async (options: Omit<InstallOptions, 'portmap'> & { portmap?: boolean }) =>
      (await import('./cni.ts')).installCni({ ...options, portmap: options.portmap === true }));
  cni.command('uninstall').description('take them away again')
    .addOption(binOption()).addOption(configOption())
    .addHelpText('after', '\nExample:\n  culvert cni uninstall\n')
    .action(async (options: Pick<InstallOptions, 'binDirectory' | 'configDirectory'>) =>
      (await import('./cni.ts')).uninstallCni(options));
}

function addBench(program: Command): void {
  program.command('bench').description('what packets cost on this machine, as ratios')
    .usage('micro [options]').argument('[arguments...]').allowUnknownOption().helpOption(false)
    .action(async (given: string[]) => {
      const { runBench } = await import('./bench.ts');
      process.exitCode = await runBench(given, stopOnSignals());
    });
}

async function main(): Promise<void> {
  const program = new Command('culvert');
  program.description('A pod network for nodes whose kernel offers nothing but TUN')
    .version(VERSION).exitOverride().showHelpAfterError('(culvert --help shows the verbs)');
  addRun(program);
  addSync(program);
  addHolder(program);
  addShow(program);
  addService(program);
  addObserve(program);
  addOperate(program, { runtimeOption, outputOption, stopOnSignals });
  addDoctor(program);
  addClear(program);
  addDemo(program);
  addPolicy(program);
  addModule(program);
  addCni(program);
  addBench(program);
  for (const command of program.commands) command.exitOverride();
  await program.parseAsync();
}

main().catch((error: unknown) => {
  stop.abort(); // lets go of standard input, which would keep us here
  const isCommander = error instanceof Error && 'code' in error && 'exitCode' in error;
  if (isCommander) {
    process.exitCode = (error as { exitCode: number }).exitCode === EXIT_OK ? EXIT_OK : EXIT_USAGE;
    return;
  }
  const code = error instanceof CommandError ? error.code : EXIT_FAILED;
  process.stderr.write(`culvert: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = code;
});
