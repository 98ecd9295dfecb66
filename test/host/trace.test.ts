// The walk of one packet, in the surroundings that test/golden/README.md draws: each step is told,
// and nothing of the node has changed afterwards.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { CONTROL_SCRATCH_SIZE, CONTROL_SCRATCH_START } from '../../wasm/abi/layout.ts';
import type { TraceQuery } from '../../engine/model-capture.ts';
import { trace, type TraceHost } from '../../host/trace.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import type { Scene } from '../support/scene.ts';

const POD_A = '10.244.0.5';
const POD_B = '10.244.0.6';
const REMOTE_POD = '10.244.1.9';
const PAGE = 65_536;

function hostOf(scene: Scene): TraceHost {
  return {
    core: scene.core,
    forwarding: scene.forwarding,
    policy: { tables: { explain: () => null } },
    endpoints: {
      find: (namespace, name) => ({
        device: deviceIndex(scene, name === '' ? namespace : name), state: 'ready',
      }),
    },
    dataPlane: { deviceName: () => 'culvert0' },
  };
}

function query(source: string, destination: string, size = 0): TraceQuery {
  return { source, destination, protocol: 'TCP', port: 80, size };
}

/** A hash of all of memory but the place where the control side asks for addresses. */
function digest({ core: { bytes } }: Scene): number {
  let hash = 0;
  bytes.fill(0, CONTROL_SCRATCH_START, CONTROL_SCRATCH_START + CONTROL_SCRATCH_SIZE);
  for (let page = 0; page < bytes.length; page += PAGE) {
    for (const byte of bytes.subarray(page, page + PAGE)) hash = ((hash * 31) + byte) | 0;
  }
  return hash;
}

function outcomes(scene: Scene, asked: TraceQuery): string[] {
  const { verdict, steps } = trace(hostOf(scene), asked);
  return [verdict, ...steps.map(({ step, outcome }) => `${step} ${outcome}`)];
}

test('a packet to a pod of the node, by TUN and from TAP', () => {
  const scene = makeHome();
  for (const [from, to] of [[POD_A, POD_B], [POD_B, POD_A]] as const) {
    const { verdict, reason, steps } = trace(hostOf(scene), query(from, to));
    assert.equal([verdict, reason], ['delivered', null]);
    assert.equal(steps.map(({ step }) => step),
      ['device', 'source', 'egress', 'ingress', 'route']);
    assert.match(steps.at(-1)?.detail ?? '', `${to}/32: endpoint pod-`);
  }
});

test('a packet to another node says tunnel and MTU', () => {
  const scene = makeHome();
  assert.equal(outcomes(scene, query(POD_A, REMOTE_POD)), [
    'sent', 'device ok', 'source ok', 'egress ok', 'route ok', 'tunnel ok', 'mtu ok',
    'ingress note',
  ]);
  const tooBig = trace(hostOf(scene), query(POD_A, REMOTE_POD, 3000));
  assert.equal([tooBig.verdict, tooBig.reason], ['dropped', 'tooBig']);
  assert.is(tooBig.steps.find(({ outcome }) => outcome === 'drop')?.step, 'mtu');
});

test('where nothing leads there, the route is the step that drops', () => {
  const scene = makeHome();
  const { verdict, reason, steps } = trace(hostOf(scene), query(POD_A, '10.244.99.1'));
  assert.is(verdict, 'dropped');
  assert.ok(reason !== null);
  assert.is(steps.filter(({ outcome }) => outcome === 'drop').length, 1);
});

test('a trace from elsewhere, or across families, is refused by name', () => {
  const scene = makeHome();
  for (const [asked, why] of [
    [query(REMOTE_POD, POD_A), 'is on node edge'],
    [query(POD_A, 'fd00:10:244::6'), 'different families'],
  ] as const) {
    assert.throws(() => trace(hostOf(scene), asked), (error: Error) => error.message.includes(why));
  }
});

test('nothing of the node has changed', () => {
  const scene = makeHome();
  const before = digest(scene);
  trace(hostOf(scene), query(POD_A, POD_B));
  trace(hostOf(scene), query(POD_A, '10.244.99.1'));
  assert.is(digest(scene), before);
});

test.run();
