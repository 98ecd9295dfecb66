// Results against what was expected of them.

import type { Expected } from './flows.ts';
import type { FlowResult } from './judge.ts';

export interface Comparison {
  /** One line each. */
  differences: string[];
  /** Ids that are expected and that no flow has. */
  unknown: string[];
  /** Flows that something was expected of. */
  compared: number;
}

const FIELDS = ['verdict', 'egress', 'ingress', 'policy'] as const;

export function compareResults(
  results: readonly FlowResult[], expected: ReadonlyMap<string, Expected>,
): Comparison {
  const known = new Set(results.map(({ id }) => id));
  const unknown = [...expected.keys()].filter((id) => !known.has(id));
  const differences: string[] = [];
  let compared = 0;
  for (const result of results) {
    const wanted = expected.get(result.id);
    if (wanted === undefined) continue;
    compared += 1;
    for (const field of FIELDS) {
      const want = wanted[field];
      if (want === undefined || want === result[field]) continue;
      differences.push(`${result.id}: ${field} is ${result[field] ?? 'null'}, `
        + `expected ${want ?? 'null'}${field === 'verdict' ? whyText(result) : ''}`);
    }
  }
  return { differences, unknown, compared };
}

function whyText({ egress, ingress, policy }: FlowResult): string {
  return ` (egress ${egress}, ingress ${ingress}, ${policy ?? 'no policy'})`;
}
