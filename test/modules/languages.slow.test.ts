// Modules in C and Rust, by the compilers of Debian: the smallest examples, and a C module that
// uses all of its header. Slow for the compilers that have to be fetched.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildModule, type Compilers } from '../../modules/build.ts';
import { inspectComponent, instantiateModule, VERDICTS,
  type ModuleInstance } from '../../modules/runtime.ts';
import { bringTools, COMPILERS } from '../../scripts/tools.ts';
import { configured, exampleImage } from '../support/examples.ts';
import { printSkip } from '../support/needs.ts';
import { findTool, toolReason } from '../support/tools.ts';

const CAP = 1024 * 1024;

await bringTools(COMPILERS);

/** Adds a test that needs some tools, or skips it with the reason. */
function testWith(names: readonly string[], title: string, act: () => Promise<void>): void {
  const missing = names.find((name) => findTool(name) === null);
  if (missing === undefined) {
    test(title, act);
    return;
  }
  test.skip(title, act);
  printSkip(title, toolReason(missing));
}

function path(name: string): string {
  return findTool(name) ?? name;
}

const FOR_C: Compilers = { clang: path('clang-19'), wasmLd: path('wasm-ld-19') };
const FOR_RUST: Compilers = { rustc: path('rustc-wasm'), wasmLd: path('wasm-ld-14') };

function evaluate(module: ModuleInstance, dstPort: number, protocol = 6): string | undefined {
  return VERDICTS[module.evaluate(
    0, 1, protocol, 2, 40000, dstPort, 7, 9, 0x0a000001, 0, 0, 0, 0x0a000002, 0, 0, 0)];
}

testWith(['clang-19', 'wasm-ld-19'], 'the smallest module in C judges', async () => {
  const image = await exampleImage('smallest-c', [], FOR_C);
  assert.equal([image.name, image.version, image.path, image.imports],
    ['smallest-c', '0.1.0', 'direct', ['culvert:policy/types@0.1.0']]);
  const module = configured(image, 'anything');
  assert.equal([evaluate(module, 23), evaluate(module, 24), evaluate(module, 23, 17)],
    ['deny', 'pass', 'pass']);
});

testWith(['rustc-wasm', 'wasm-ld-14'], 'the smallest module in Rust judges', async () => {
  const image = await exampleImage('smallest-rust', [], FOR_RUST);
  assert.equal([image.name, image.version, image.path], ['smallest-rust', '0.1.0', 'direct']);
  const module = configured(image, 'anything');
  assert.equal([evaluate(module, 23), evaluate(module, 24), evaluate(module, 23, 17)],
    ['deny', 'pass', 'pass']);
});

const WHOLE = `
#include "culvert.h"
static uint32_t bad_id;
static char seen[2];

const char *culvert_configure(const char *config, uint32_t length) {
  if (length == 0) return "no configuration";
  seen[0] = config[length - 1];
  culvert_log(CULVERT_WARN, seen);
  return 0;
}

void culvert_endpoints(const struct culvert_endpoint *endpoints, uint32_t count) {
  for (uint32_t at = 0; at < count; at += 1) {
    const struct culvert_endpoint *pod = &endpoints[at];
    if (pod->label_count == 2 && pod->labels[1].value.bytes[0] == 'x') bad_id = pod->id;
  }
}

enum culvert_verdict culvert_evaluate(const struct culvert_flow *flow) {
  if (flow->src[0] != 0x0a000001 || flow->dst[0] != 0x0a000002) return CULVERT_ALLOW;
  if (flow->src_identity == bad_id) return CULVERT_REJECT;
  return culvert_now_ms() == 5 ? CULVERT_MORE : CULVERT_PASS;
}

enum culvert_verdict culvert_inspect(const struct culvert_flow *flow, uint32_t offset,
                                     const uint8_t *payload, uint32_t length) {
  if (flow->dst_port != 443 || offset != 9) return CULVERT_ALLOW;
  return payload[length - 1] == 'z' ? CULVERT_DENY : CULVERT_PASS;
}
`;

testWith(['clang-19', 'wasm-ld-19'], 'a module in C has all that the WIT has', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-c-'));
  try {
    writeFileSync(join(folder, 'module.json'), JSON.stringify({
      name: 'whole', version: '1.0.0', language: 'c', world: 'payload-module', stateful: true,
    }));
    writeFileSync(join(folder, 'module.c'), WHOLE);
    const { bytes } = await buildModule(folder, { compilers: FOR_C });
    const image = await inspectComponent(bytes, { allow: ['clock'], memoryCapBytes: CAP });
    assert.equal([image.stateful, image.hasPayload, image.path], [true, true, 'direct']);
    const lines: string[] = [];
    let nowMs = 4;
    const module = instantiateModule(image, {
      log: (level, text) => lines.push(`${level} ${text}`), nowMs: () => nowMs,
    });
    assert.throws(() => module.configure(new Uint8Array()), /: no configuration\.$/);
    module.configure(new TextEncoder().encode(`${'a'.repeat(200_000)}q`));
    assert.equal(lines, ['warn q']);
    assert.is(evaluate(module, 443), 'pass');
    nowMs = 5;
    assert.is(evaluate(module, 443), 'more');
    const words = [0, 1, 6, 2, 40000, 443, 7, 9, 0x0a000001, 0, 0, 0, 0x0a000002, 0, 0, 0];
    for (let round = 0; round < 1000; round += 1) {
      const text = new TextEncoder().encode('y'.repeat(1400) + (round % 2 === 0 ? 'z' : 'y'));
      assert.is(VERDICTS[module.inspect(words, 9, text)], round % 2 === 0 ? 'deny' : 'pass');
    }
    const label = (value: string): { key: string; value: string } => ({ key: 'k', value });
    for (let round = 0; round < 100; round += 1) {
      module.endpoints(Array.from({ length: 300 }, (_, id) => ({
        id, namespace: 'n', pod: 'p', labels: [label('a'), label(id === 7 ? 'x' : 'b')],
      })));
    }
    assert.is(evaluate(module, 443), 'reject');
    assert.ok(module.memoryBytes() <= CAP);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.run();
