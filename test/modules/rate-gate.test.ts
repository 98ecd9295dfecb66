// The example rate-gate: connections a second, by the clock that it is given.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { inspectComponent, ModuleError, VERDICTS, type ModuleInstance,
  type ModuleVerdict } from '../../modules/runtime.ts';
import { buildExample, configured, exampleImage } from '../support/examples.ts';
import { Random } from '../support/random.ts';

const image = await exampleImage('rate-gate', ['clock']);
let nowMs = 0;

function gate(config: string, startMs = 1000): ModuleInstance {
  nowMs = startMs;
  return configured(image, config, { nowMs: () => nowMs });
}

function open(module: ModuleInstance, source = 0x0a000001, identity = 7, direction = 0)
  : ModuleVerdict | undefined {
  const words = [0, direction, 6, 2, 40000, 80, identity, 9, source, 0, 0, 0, 0x0a000002, 0, 0, 0];
  return VERDICTS[module.evaluate(...words)];
}

/** How many of some connections pass. */
function passing(module: ModuleInstance, count: number, source?: number, identity?: number)
  : number {
  let passed = 0;
  for (let left = count; left > 0; left -= 1) {
    if (open(module, source, identity) === 'pass') passed += 1;
  }
  return passed;
}

test('it is stateful, and asks for the clock', async () => {
  assert.is(image.stateful, true);
  try {
    await inspectComponent(await buildExample('rate-gate'), { allow: [], memoryCapBytes: 1 << 24 });
    assert.unreachable();
  } catch (error) {
    assert.is((error as ModuleError).kind, 'imports');
    assert.match((error as ModuleError).message, /--allow clock/);
  }
});

test('a source has its burst, then its rate', () => {
  const module = gate('rate 10\nburst 20\n');
  assert.is(passing(module, 50), 20);
  nowMs += 99;
  assert.is(passing(module, 5), 0);
  nowMs += 1;
  assert.is(passing(module, 5), 1);
  nowMs += 1000;
  assert.is(passing(module, 50), 10);
  nowMs += 60_000;
  assert.is(passing(module, 50), 20, 'a bucket is never more than full');
});

test('sources are counted apart', () => {
  const module = gate('rate 5\n');
  assert.is(passing(module, 9, 1), 5);
  assert.is(passing(module, 9, 2), 5);
  assert.is(passing(module, 9, 1), 0);
});

test('a source may be an identity', () => {
  const module = gate('rate 5\nper identity\n');
  assert.is(passing(module, 3, 1, 44), 3);
  assert.is(passing(module, 9, 2, 44), 2);
  assert.is(passing(module, 9, 3, 45), 5);
});

test('the other direction passes', () => {
  const module = gate('rate 1\nat egress\n');
  assert.is(passing(module, 9), 9);
  assert.equal([open(module, 1, 7, 1), open(module, 1, 7, 1)], ['pass', 'deny']);
});

test('the clock may wrap', () => {
  const module = gate('rate 2\n', (2 ** 32) - 250);
  assert.is(passing(module, 5), 2);
  nowMs += 500;
  assert.is(passing(module, 5), 1);
  nowMs += 500;
  assert.is(passing(module, 5), 1);
});

test('it counts as a bucket with fractions counts', () => {
  const [rate, burst] = [37, 90];
  const module = gate(`rate ${rate}\nburst ${burst}\n`);
  const random = new Random(3);
  const buckets = new Map<number, { tokens: number; lastMs: number }>();
  for (let round = 0; round < 50_000; round += 1) {
    nowMs += random.oneIn(50) ? random.below(5000) : random.below(4);
    const source = random.between(1, 40);
    const bucket = buckets.get(source) ?? { tokens: burst * 1000, lastMs: nowMs };
    const filled = bucket.tokens + ((nowMs - bucket.lastMs) * rate);
    const tokens = Math.min(filled, burst * 1000);
    const isOpen = tokens >= 1000;
    buckets.set(source, { tokens: isOpen ? tokens - 1000 : tokens, lastMs: nowMs });
    assert.is(open(module, source), isOpen ? 'pass' : 'deny', `round ${round}`);
  }
});

test('more sources than it remembers neither trap nor grow it', () => {
  const module = gate('rate 1\n');
  const before = module.memoryBytes();
  for (let source = 1; source <= 200_000; source += 1) open(module, source);
  assert.is(module.memoryBytes(), before);
  assert.is(passing(module, 3, 200_000), 0, 'the last one is remembered');
});

test('a configuration that makes no sense is refused with the line', () => {
  const lines = ['rate', 'rate 0', 'rate x', 'rate 1000001', 'per pod', 'at door', 'burst -1'];
  for (const line of lines) {
    assert.throws(() => gate(`rate 5\n${line}\n`), /is no rule/, line);
  }
});

test.run();
