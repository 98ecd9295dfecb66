// Why a flow is allowed or denied, end by end, in words and as JSON.

import { table } from '../table.ts';
import type { Place } from './ends.ts';
import { endText } from './flows.ts';
import type { ModuleAnswers } from './modules.ts';
import { resultOf, type EndResult, type Judgement, type Word } from './judge.ts';

interface EndExplanation {
  verdict: Word;
  policy: string | null;
  rule: string | null;
  reason: string;
  /** Where it was a module that decided. */
  module?: string;
}

interface PlaceExplanation {
  address: string;
  pod: string | null;
  node: string | null;
}

/** What `policy explain` says. */
export interface Explanation {
  from: string;
  to: string;
  protocol: string;
  port: number | null;
  source: PlaceExplanation;
  destination: PlaceExplanation;
  verdict: Word;
  egress: EndExplanation;
  ingress: EndExplanation;
  policy: string | null;
  /** What each module said at the ends where it was asked; left out where there are none. */
  modules?: readonly ModuleAnswers[];
}

/** How the rule that denies for want of another is named. */
const ISOLATES = 'isolates ';

export function explanationOf(
  judgement: Judgement, modules?: readonly ModuleAnswers[],
): Explanation {
  const { flow: { flow, source, destination }, verdict, egress, ingress } = judgement;
  return {
    from: endText(flow.src),
    to: endText(flow.dst),
    protocol: flow.protocol,
    port: flow.port ?? null,
    source: placeOf(source),
    destination: placeOf(destination),
    verdict,
    egress: explainEnd(egress, 'egress', source, destination),
    ingress: explainEnd(ingress, 'ingress', destination, source),
    policy: resultOf(judgement).policy,
    ...(modules === undefined ? {} : { modules }),
  };
}

/** The explanation as it stands on a terminal. */
export function explanationText(explanation: Explanation): string {
  const { protocol, port, source, destination, verdict, egress, ingress } = explanation;
  const service = port === null ? protocol : `${port}/${protocol}`;
  const head = `${verdict}: ${placeText(source)} to ${placeText(destination)}, ${service}\n\n`;
  return head + table([], [
    ['egress:', egress.verdict, egress.reason],
    ['ingress:', ingress.verdict, ingress.reason],
    ...(explanation.modules ?? []).map((one) =>
      ['module:', one.name, answersText(one)]),
  ]);
}

const ANSWERS: Record<string, string> = {
  more: 'more: passes for now, and is judged by its payload on a node',
};

/** Each end is asked about once, so a module has at most two answers. */
function answersText({ answers, fault }: ModuleAnswers): string {
  const texts = Object.keys(answers).map((answer) => ANSWERS[answer] ?? answer);
  if (fault !== null) texts.push(`fails (${fault}), so that its failure verdict counts`);
  return texts.join('; ') || 'is not asked';
}

function placeOf({ address, pod, node }: Place): PlaceExplanation {
  return { address, pod: pod?.key ?? null, node };
}

function placeText({ address, pod, node }: PlaceExplanation): string {
  if (pod !== null) return `pod ${pod} (${address}${node ? `, node ${node}` : ''})`;
  return node === null ? `${address} outside the cluster` : `node ${node} (${address})`;
}

function explainEnd(
  { verdict, rule, module, isPoliced }: EndResult, direction: 'egress' | 'ingress', own: Place,
  other: Place,
): EndExplanation {
  const policy = rule?.policy ?? null;
  const name = rule?.rule ?? null;
  const reason = (): string => {
    if (!isPoliced) return unpolicedReason(own, other);
    if (module === null) return ruleReason(verdict, policy, name, direction);
    return verdict === 'deny' ? `module ${module} denies it`
      : `module ${module} allows it, and no NetworkPolicy is asked`;
  };
  return {
    verdict, policy, rule: name, reason: reason(),
    ...(module === null ? {} : { module }),
  };
}

function ruleReason(
  verdict: Word, policy: string | null, rule: string | null, direction: string,
): string {
  if (policy === null) return `no policy is about this pod's ${direction} here`;
  if (rule?.startsWith(ISOLATES)) {
    return `${policy} isolates the pod for ${direction}, and no rule of any policy allows this`;
  }
  return `${policy}, ${rule ?? ''}, ${verdict === 'allow' ? 'allows' : 'denies'} it`;
}

function unpolicedReason(own: Place, other: Place): string {
  if (own.pod === null) return 'policy is about pods, and this end is none';
  if (own.pod === other.pod) return 'a pod may always talk to itself';
  return 'a pod and its own node may always talk to each other';
}
