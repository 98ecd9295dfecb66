// A policy module for tests, which does to each destination port what its configuration says: a
// line is `PORT WORD` or `PORT WORD DIRECTION`, the words being the verdicts and some misdeeds.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildModule } from '../../modules/build.ts';

const SOURCE = `import { Direction, Flow, linesOf, Verdict } from 'culvert/module';

const words = new Map<i32, string>();

export function configure(text: string): string {
  words.clear();
  const lines = linesOf(text);
  for (let at = 0; at < lines.length; at += 1) {
    const parts = lines[at].split(' ');
    if (parts.length < 2) return 'not PORT WORD: ' + lines[at];
    if (parts[1] == 'spin') while (true) {}
    const ingress = (I32.parseInt(parts[0]) << 1) | Direction.Ingress;
    const egress = (I32.parseInt(parts[0]) << 1) | Direction.Egress;
    if (parts.length < 3 || parts[2] == 'ingress') words.set(ingress, parts[1]);
    if (parts.length < 3 || parts[2] == 'egress') words.set(egress, parts[1]);
  }
  return '';
}

function deep(depth: i32): i32 {
  return depth > 1000000000 ? 0 : deep(depth + 1) + deep(depth + 2);
}

export function evaluate(flow: Flow): Verdict {
  const key = (flow.dstPort << 1) | flow.direction;
  if (!words.has(key)) return Verdict.Pass;
  const word = words.get(key);
  if (word == 'allow') return Verdict.Allow;
  if (word == 'deny') return Verdict.Deny;
  if (word == 'reject') return Verdict.Reject;
  if (word == 'trap') unreachable();
  if (word == 'recurse') return deep(0);
  if (word == 'nonsense') return 77;
  if (word == 'loop') while (true) {}
  return Verdict.Pass;
}
`;

/** Builds the module in a new folder. Returns the component's path. */
export async function buildObedientModule(folder: string, name = 'obedient'): Promise<string> {
  mkdirSync(folder, { recursive: true });
  const manifest = { name, version: '1.2.3', language: 'assemblyscript' };
  writeFileSync(join(folder, 'module.json'), JSON.stringify(manifest));
  writeFileSync(join(folder, 'index.ts'), SOURCE);
  const { path } = await buildModule(folder);
  return path;
}
