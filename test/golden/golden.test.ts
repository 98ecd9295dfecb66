// Golden packets a human can read: each section of test/golden/*.md that has an input goes through
// the built core. README.md there says what sections look like and draws the node they speak of.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { REASON_NAMES } from '../../engine/counters.ts';
import { DIRECTORY_MSS_CLAMP } from '../../wasm/abi/layout.ts';
import { processOne } from '../support/core.ts';
import { deviceIndex, deviceName, makeHome } from '../support/home.ts';
import { fromHex, toHex } from '../support/packets.ts';
import { ROOT } from '../support/source.ts';

const FOLDER = join(ROOT, 'test/golden');

interface Golden {
  name: string;
  input: string;
  clamps: boolean;
  source: string | null;
  packet: Uint8Array;
  /** As written after `Verdict: `. */
  verdict: string;
  output: Uint8Array | null;
}

function readSections(file: string): Golden[] {
  const [, ...sections] = readFileSync(join(FOLDER, file), 'utf8').split(/^## /m);
  return sections.map((text) => readSection(`${file}: ${text.split('\n')[0]}`, text));
}

function readSection(name: string, text: string): Golden {
  const [, input, source] = /^Input: `([^`]+)`(?:, from `([^`]+)`)?$/m.exec(text) ?? [];
  const verdict = /^Verdict: (.+)$/m.exec(text)?.[1];
  const clamps = /^With: `mssClamp`$/m.test(text);
  const [packet, output, ...more] = [...text.matchAll(/^```\n(.*?)^```$/gms)]
    .map(([, block = '']) => readBlock(block));
  if (input === undefined || verdict === undefined || packet === undefined || more.length > 0) {
    throw new Error(`${name}: a section has an input, a packet, a verdict and one output or none`);
  }
  return { name, input, clamps, source: source ?? null, packet, verdict, output: output ?? null };
}

/** Hexadecimal with comments, in which `2e x 40` stands for a byte 40 times. */
function readBlock(block: string): Uint8Array {
  const bare = block.replace(/#.*$/gm, '');
  return fromHex(bare.replace(/([0-9a-f]{2}) x (\d+)/g, (_, byte: string, count: string) =>
    byte.repeat(Number(count))));
}

function check(golden: Golden): void {
  const scene = makeHome();
  if (golden.clamps) scene.core.setDirectory(DIRECTORY_MSS_CLAMP, 1);
  const source = golden.source === null ? undefined : { address: golden.source, port: 40000 };
  const found = processOne(scene.core, golden.packet, deviceIndex(scene, golden.input), source);
  const reason = found.reason === 0 ? '' : `drop, \`${REASON_NAMES[found.reason]}\``;
  const remote = found.remote.address === ''
    ? ''
    : `, to \`${found.remote.address}\` port ${found.remote.port}`;
  const on = `on \`${deviceName(scene, found.output)}\`${remote}`;
  const sent = reason === '' ? `send ${on}` : `${reason}; answer ${on}`;
  assert.is(found.sent ? sent : reason, golden.verdict);
  assert.is(found.sent, golden.output !== null, 'an output where there is one');
  if (golden.output !== null) assert.is(toHex(found.bytes), toHex(golden.output));
}

/** Other Markdown files here have other tests: the outer headers are captured on an underlay. */
const files = readdirSync(FOLDER).filter((file) =>
  file.endsWith('.md') && /^Input: /m.test(readFileSync(join(FOLDER, file), 'utf8')));

for (const golden of files.sort().flatMap(readSections)) {
  test(golden.name, () => check(golden));
}

test.run();
