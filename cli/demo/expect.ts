// What the objects' policy says of every pair: asked of the core offline, as `culvert policy test`
// asks it, so that the demo compares the running nodes with the checker.

import { readFileSync } from 'node:fs';
import type { Family } from '../../engine/address.ts';
import type { Entry } from '../../sync/objects.ts';
import type { End, Flow } from '../policy/flows.ts';
import { judgeFlows } from '../policy/judge.ts';
import { CORE_PATH } from '../version.ts';

/** A pair to be judged; ends are `namespace/pod` or `node/name`. */
export interface Question {
  from: string;
  to: string;
  protocol: 'TCP' | 'UDP' | 'ICMP';
  family: Family;
}

/** Answers each question, in order. */
export function expectedOf(
  entries: readonly Entry[],
  questions: Question[],
  port: number,
): ('reach' | 'blocked')[] {
  const module = new WebAssembly.Module(readFileSync(CORE_PATH));
  const flows = questions.map(({ from, to, protocol, family }, index): Flow => ({
    id: String(index), src: endOf(from), dst: endOf(to), protocol, family,
    ...(protocol === 'ICMP' ? {} : { port }),
  }));
  return judgeFlows(module, entries, flows, { legacyAnnotation: false })
    .map(({ verdict }) => (verdict === 'allow' ? 'reach' : 'blocked'));
}

function endOf(name: string): End {
  return name.startsWith('node/') ? { node: name.slice('node/'.length) } : { pod: name };
}
