// The verbs about policy: test, explain and list, offline, through the core that forwards.

import { readFileSync } from 'node:fs';
import { RuleNameSchema } from '../engine/model.ts';
import type { Entry } from '../sync/objects.ts';
import { askAll } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_OK, EXIT_USAGE } from './exit.ts';
import { explanationOf, explanationText } from './policy/explain.ts';
import { fault, parseEnd, parsePort, Places, readExpected, readFlows } from './policy/flows.ts';
import type { Flow } from './policy/flows.ts';
import { FlowProblem, judgeFlows, resultOf, type Judgement, type Progress } from
  './policy/judge.ts';
import { describePolicies } from './policy/list.ts';
import { compareResults } from './policy/expect.ts';
import type { OfflineModules } from './policy/modules.ts';
import { loadObjects, readText } from './policy/objects.ts';
import { joinResults, throughServices, Translator, type Translation } from
  './policy/services.ts';
import type { ShowOptions } from './show.ts';
import { print, type OutputFormat } from './table.ts';
import { CORE_PATH } from './version.ts';

export interface PolicyOptions {
  objects: string[];
  output: OutputFormat;
}

interface JudgedOptions extends PolicyOptions {
  legacyAnnotation?: boolean;
  /** As `policy/modules.ts` reads them. */
  module?: string[];
}

export interface TestOptions extends JudgedOptions {
  flows: string;
  expect?: string;
}

export interface ExplainOptions extends JudgedOptions {
  from: string;
  to: string;
  port: string;
  family?: string;
}

/** Progress is shown when a run has lasted this long, and then this often. */
const PROGRESS_MS = 500;

/** Verdicts on a file of flows. Returns the exit code: EXIT_FAILED where expectations differ. */
export async function testPolicy(options: TestOptions): Promise<number> {
  const entries = await loadObjects(options.objects);
  const flows = readFlows(options.flows, await readText(options.flows));
  const expected = options.expect === undefined ? null
    : readExpected(options.expect, await readText(options.expect));
  const modules = await loadModules(options);
  const translated = throughServices(flows, entries);
  const { asked, places } = translated;
  const origin = { file: options.flows, places };
  const judgements = judge(entries, asked, { ...options, modules }, origin);
  const results = joinResults(flows, translated, judgements.map(resultOf));
  print(options.output, { results }, ['ID', 'VERDICT', 'EGRESS', 'INGRESS', 'POLICY'], () =>
    results.map(({ id, verdict, egress, ingress, policy }) =>
      [id, verdict, egress, ingress, policy ?? '-']));
  for (const { name, faults, fault } of modules?.answers() ?? []) {
    if (fault === null) continue;
    process.stderr.write(`culvert: module ${name} failed ${faults} times, last ${fault}\n`);
  }
  if (expected === null) return EXIT_OK;
  const { differences, unknown, compared } = compareResults(results, expected);
  if (unknown.length > 0) {
    const file = options.expect ?? '';
    throw fault(unknown.map((id) => `${file}: ${JSON.stringify(id)}: no such flow`));
  }
  for (const difference of differences) process.stderr.write(`${difference}\n`);
  const sum = `${differences.length} of ${compared} flows are not as expected`;
  process.stderr.write(`culvert: policy test: ${sum}\n`);
  return differences.length === 0 ? EXIT_OK : EXIT_FAILED;
}

/** Why one flow is allowed or denied. */
export async function explainPolicy(options: ExplainOptions): Promise<void> {
  const entries = await loadObjects(options.objects);
  const translator = new Translator(entries);
  const flow = flowOf({ ...options, to: translator.addressOf(options.to, options.family) });
  const modules = await loadModules(options);
  const translation = translator.translate(flow);
  if (translation !== null) {
    return explainService(flow, translation, entries, { ...options, modules });
  }
  const [judgement] = judge(entries, [flow], { ...options, modules });
  if (judgement === undefined) throw new Error('no verdict');
  const explanation = explanationOf(judgement, modules?.answers());
  if (options.output === 'json') process.stdout.write(`${JSON.stringify(explanation)}\n`);
  else process.stdout.write(explanationText(explanation));
}

/** Policy sees what the Service makes of the flow: the same for each backend that it may get. */
function explainService(
  flow: Flow, { service, address, flows }: Translation, entries: readonly Entry[],
  options: ExplainOptions & WithModules,
): void {
  const backends = judge(entries, flows, options).map((judgement) => explanationOf(judgement));
  const { from } = options;
  const { protocol, port = null } = flow;
  if (options.output === 'json') {
    const explanation = { from, to: address, protocol, port, service, backends };
    process.stdout.write(`${JSON.stringify(explanation)}\n`);
    return;
  }
  const count = backends.length === 1 ? '1 backend' : `${backends.length || 'no'} backends`;
  process.stdout.write([
    `Service ${service}, ${address} ${port ?? ''}/${protocol}: ${count} for new connections\n`,
    ...backends.map(explanationText),
  ].join('\n'));
}

/** The rules that the running daemon judges the pods of its node by, policy by policy. */
export async function listRules({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const rules = await askAll(runtimeDirectory, 'policy.list', RuleNameSchema);
  const policies = new Map<string, string[]>();
  for (const { policy, rule } of rules) policies.set(policy, [...policies.get(policy) ?? [], rule]);
  const list = [...policies].map(([policy, own]) => ({ policy, rules: own.sort() }))
    .sort((a, b) => (a.policy < b.policy ? -1 : 1));
  print(output, list, ['POLICY', 'RULES HERE'], () =>
    list.map(({ policy, rules: own }) => [policy, own.join(', ')]));
}

/** The policies among objects, and how many pods each is about. */
export async function listPolicies(options: PolicyOptions): Promise<void> {
  const policies = describePolicies(await loadObjects(options.objects));
  const headers = ['KIND', 'NAMESPACE', 'NAME', 'TIER', 'PRIORITY', 'PODS', 'INGRESS', 'EGRESS'];
  const rules = (count: number | null): string => {
    if (count === null) return '-';
    return count === 1 ? '1 rule' : `${count} rules`;
  };
  print(options.output, policies, headers, () => policies.map((policy) => [
    policy.kind, policy.namespace ?? '-', policy.name, policy.tier,
    policy.priority === null ? '-' : String(policy.priority), String(policy.pods),
    rules(policy.ingress), rules(policy.egress),
  ]));
}

/** The flow that the command line names. */
function flowOf({ from, to, port, family }: ExplainOptions): Flow {
  const ends = [from, to].map((text) => {
    const end = parseEnd(text);
    if (end !== null) return end;
    throw new CommandError(EXIT_USAGE,
      `policy explain: ${text} is not namespace/pod, an IP address or node:NAME`);
  });
  const service = parsePort(port);
  if (service === null) {
    throw new CommandError(EXIT_USAGE,
      `policy explain: ${port} is not PORT/PROTOCOL, as 80/TCP, or ICMP`);
  }
  const [src, dst] = ends;
  if (src === undefined || dst === undefined) throw new Error('two ends');
  const wanted = family === 'IPv4' || family === 'IPv6' ? family : null;
  return { id: `${from} ${to} ${port}`, src, dst, ...service, family: wanted };
}

interface WithModules {
  modules: OfflineModules | null;
}

/** What `--module` names, compiled; null where it is not given. */
async function loadModules({ module }: JudgedOptions): Promise<OfflineModules | null> {
  if (module === undefined) return null;
  const { OfflineModules: Modules } = await import('./policy/modules.ts');
  return Modules.load(module);
}

/** Where flows come from: a file, if any, and their places in its list. */
interface Origin {
  file: string;
  places: readonly number[];
}

function judge(
  entries: readonly Entry[], flows: readonly Flow[], options: JudgedOptions & WithModules,
  { file, places }: Origin = { file: '', places: [] },
): Judgement[] {
  const module = new WebAssembly.Module(readFileSync(CORE_PATH));
  const legacyAnnotation = options.legacyAnnotation === true;
  const { modules } = options;
  try {
    return judgeFlows(module, entries, flows, {
      legacyAnnotation, modules, places, progress: showProgress(),
    });
  } catch (error) {
    if (!(error instanceof FlowProblem)) throw error;
    if (file !== '') {
      const place = new Places(file, readFileSync(file, 'utf8')).of(error.path);
      throw fault([`${place}: ${error.message}`]);
    }
    throw new CommandError(EXIT_USAGE, `policy explain: ${error.reason}`);
  }
}

/** A line on the terminal that long runs keep up to date; nothing where nobody looks. */
function showProgress(): Progress {
  if (!process.stderr.isTTY) return () => undefined;
  let next = performance.now() + PROGRESS_MS;
  let isShown = false;
  return (done, all) => {
    const now = performance.now();
    const isLast = done === all;
    if (isLast ? !isShown : now < next) return;
    next = now + PROGRESS_MS;
    isShown = true;
    const text = `judged ${done} of ${all} packets`;
    process.stderr.write(isLast ? `\r${' '.repeat(text.length)}\r` : `\r${text}`);
  };
}
