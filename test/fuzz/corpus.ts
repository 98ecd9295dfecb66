// The fuzzer's starting points: one tiny packet per protocol, and every packet that ever broke the
// core, as files of commented hexadecimal. Some of a file's comment lines mean something:
//
//   # input: pod-a               the device it comes from
//   # outer source: 192.0.2.11   the underlay address it comes from, for tunnel packets
//   # layer 3: 8                 where its IP header is, unless that is behind VXLAN or Ethernet

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Remote } from '../support/core.ts';
import { deviceIndex } from '../support/home.ts';
import { fromHex } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { ROOT } from '../support/source.ts';

const FOLDER = join(ROOT, 'test/fuzz/corpus');

export interface CorpusEntry {
  name: string;
  input: number;
  source: Remote;
  packet: Uint8Array;
  /** Where the IP header is. */
  layer3: number;
}

export function readCorpus(scene: Scene): CorpusEntry[] {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith('.hex')).sort();
  return files.map((file) => {
    const text = readFileSync(join(FOLDER, file), 'utf8');
    const field = (name: string): string | undefined =>
      new RegExp(`^# ${name}: (\\S+)$`, 'm').exec(text)?.[1];
    const input = field('input');
    if (input === undefined) throw new Error(`${file} does not say its input device`);
    const usual = input.startsWith('underlay') ? 22 : input === 'pod-b' ? 14 : 0;
    return {
      name: file.replace('.hex', ''),
      input: deviceIndex(scene, input),
      source: { address: field('outer source') ?? '203.0.113.99', port: 40000 },
      packet: fromHex(text),
      layer3: Number(field('layer 3') ?? usual),
    };
  });
}
