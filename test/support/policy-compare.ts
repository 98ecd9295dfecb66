// Random clusters and histories through the core and through the slow twin. Everything follows from
// a seed, which each difference names.

import { judgeFlows, resultOf, type FlowResult } from '../../cli/policy/judge.ts';
import { CoreModules, randomModules } from './policy-modules.ts';
import { PolicyTwin, type TwinFlow, type TwinVerdict } from '../reference/policy.ts';
import { ClusterGenerator } from './cluster-generator.ts';
import { coreModule } from './core.ts';
import { FlowGenerator } from './flow-generator.ts';
import { entriesOf } from './policy-entries.ts';
import { Random } from './random.ts';

/** What has been compared, and the first few differences. */
export interface Comparison {
  flows: number;
  denied: number;
  differences: string[];
}

const SHOWN = 3;

export function emptyComparison(): Comparison {
  return { flows: 0, denied: 0, differences: [] };
}

/** Compares flows over one random cluster, with policy modules or without. */
export function compareCluster(
  seed: number, count: number, withModules: boolean, sum: Comparison,
): void {
  const cluster = new ClusterGenerator(new Random(seed));
  const objects = cluster.list();
  const modules = withModules ? randomModules(new Random(seed)) : [];
  const twin = new PolicyTwin(objects, { legacyAnnotation: true, modules });
  const generator = new FlowGenerator(cluster);
  const flows = Array.from({ length: count }, () => generator.next());
  const judgements = judgeFlows(
    coreModule(), entriesOf(objects), flows.map(withId),
    { legacyAnnotation: true, modules: withModules ? new CoreModules(modules) : null });
  for (const [index, judgement] of judgements.entries()) {
    const flow = flows[index];
    if (flow === undefined) continue;
    compareFlow(`seed ${seed}`, flow, resultOf(judgement), twin.judge(flow), sum);
  }
}

export function withId(flow: TwinFlow, index: number): TwinFlow & { id: string } {
  return { ...flow, id: `f${index}` };
}

/** Counts a flow, and notes where the core and the twin differ about it. */
export function compareFlow(
  where: string, flow: TwinFlow, { id: _, ...core }: FlowResult, twin: TwinVerdict,
  sum: Comparison,
): void {
  sum.flows += 1;
  if (twin.verdict === 'deny') sum.denied += 1;
  const [left, right] = [JSON.stringify(core), JSON.stringify(twin)];
  if (left === right) return;
  if (sum.differences.length >= SHOWN) return;
  sum.differences.push(`${where}: ${JSON.stringify(flow)}\n  core ${left}\n  twin ${right}`);
}
