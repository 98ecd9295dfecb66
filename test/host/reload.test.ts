// Which settings a running daemon takes over.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DEFAULTS, type HostConfig } from '../../host/config.ts';
import { applyLive, compareConfigs } from '../../host/reload.ts';
import {
  DIRECTORY_DENY_WITH_ICMP, DIRECTORY_ICMP_BURST, DIRECTORY_ICMP_RATE, DIRECTORY_MSS_CLAMP,
} from '../../wasm/abi/layout.ts';
import type { Core } from '../../engine/core.ts';

const test = suite('host/reload');

const changed: HostConfig = {
  ...DEFAULTS,
  logLevel: 'debug',
  icmp: { rate: 7, burst: 9 },
  mssClamp: true,
  policy: { ...DEFAULTS.policy, denyWithIcmp: true },
  memory: 'small',
  underlay: { ...DEFAULTS.underlay, interface: 'eth1' },
};

test('equal configurations differ in nothing', () => {
  assert.equal(compareConfigs(DEFAULTS, { ...DEFAULTS }), { live: [], waiting: [] });
});

test('what needs another daemon is told apart', () => {
  const { live, waiting } = compareConfigs(DEFAULTS, changed);
  assert.equal(live.sort(), [
    'icmp.burst', 'icmp.rate', 'logLevel', 'mssClamp', 'policy.denyWithIcmp',
  ]);
  assert.equal(waiting.sort(), ['memory', 'underlay.interface']);
});

test('the core goes by the new settings', () => {
  const words = new Map<number, number>();
  const core = { setDirectory: (at: number, value: number) => void words.set(at, value) };
  applyLive(core as unknown as Core, changed);
  assert.is(words.get(DIRECTORY_ICMP_RATE), 7);
  assert.is(words.get(DIRECTORY_ICMP_BURST), 9);
  assert.is(words.get(DIRECTORY_DENY_WITH_ICMP), 1);
  assert.is(words.get(DIRECTORY_MSS_CLAMP), 1);
});

test.run();
