// A policy module that goes wrong in the way that a destination port asks for. Its configuration
// names ports to deny, one a line, or says what is to go wrong when it is configured.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildModule } from '../../modules/build.ts';

/** Destination ports and what they do to the module. */
export const THREATS = { trap: 7001, recursion: 7002, loop: 7003, memory: 7004, nonsense: 7005 };

const SOURCE = `import { Endpoint, Flow, linesOf, Verdict } from 'culvert/module';

const denied = new Set<i32>();
const hoard: ArrayBuffer[] = [];
let loopsAtPods = false;

export function configure(text: string): string {
  denied.clear();
  const lines = linesOf(text);
  for (let at = 0; at < lines.length; at += 1) {
    if (lines[at] == 'loop') while (true) {}
    if (lines[at] == 'trap') unreachable();
    if (lines[at] == 'loop at pods') { loopsAtPods = true; continue; }
    const port = I32.parseInt(lines[at]);
    if (port < 1) return 'not a port: ' + lines[at];
    denied.add(port);
  }
  return '';
}

export function endpoints(pods: Endpoint[]): void {
  if (loopsAtPods && pods.length > 2) while (true) {}
}

function deep(depth: i32): i32 {
  return depth > 1000000000 ? 0 : deep(depth + 1) + deep(depth + 2);
}

export function evaluate(flow: Flow): Verdict {
  switch (flow.dstPort) {
    case ${THREATS.trap}: unreachable();
    case ${THREATS.recursion}: return deep(0);
    case ${THREATS.loop}: while (true) {}
    case ${THREATS.memory}: while (true) hoard.push(new ArrayBuffer(1 << 20));
    case ${THREATS.nonsense}: return 77;
    default: return denied.has(flow.dstPort) ? Verdict.Deny : Verdict.Pass;
  }
}
`;

/** Builds the component. */
export async function buildThreats(): Promise<Uint8Array> {
  const folder = mkdtempSync(join(tmpdir(), `culvert-threats-${process.pid}-`));
  try {
    mkdirSync(folder, { recursive: true });
    const manifest = { name: 'threats', version: '1.0.0', language: 'assemblyscript' };
    writeFileSync(join(folder, 'module.json'), JSON.stringify(manifest));
    writeFileSync(join(folder, 'index.ts'), SOURCE);
    return (await buildModule(folder)).bytes;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
