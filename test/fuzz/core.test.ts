// Damaged packets through the core: a bounded run of the fuzzer, the corpus as it is, and mutated
// packets against the slow twin. The long run is dist/test/fuzz/run.js.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import { PolicyTables } from '../../engine/tables/policy.ts';
import { placePacket, readRemote, readVerdict, TEST_LIMITS } from '../support/core.ts';
import { makeHome } from '../support/home.ts';
import { toHex } from '../support/packets.ts';
import { ALLOW_ALL, change, DENY_ALL, program, ruleSet } from '../support/policy-core.ts';
import { readCorpus } from './corpus.ts';
import { Fuzzer } from './fuzzer.ts';
import { Mutator } from './mutate.ts';

const SEED = 7348;
const PACKETS = 8_000_000;
const POLICY_PACKETS = 4_000_000;
const TWIN_PACKETS = 300_000;
/** What is refused in any case, or as long as nothing else has come before. */
const REFUSED = ['service-echo', 'service-error', 'service-peer'];

test('every packet of the corpus is forwarded or answered', () => {
  const scene = makeHome();
  for (const { name, input, packet, source } of readCorpus(scene)) {
    if (name.startsWith('crash-') || REFUSED.includes(name)) continue;
    placePacket(scene.core, 0, packet, input, source);
    scene.core.exports.processBatch(0, 1, 1_000_000);
    const { sent, reason } = readVerdict(scene.core, 0);
    assert.ok(sent, `${name}: ${REASON_NAMES[reason]}`);
  }
});

test('damaged packets neither trap nor write astray nor get lost', () => {
  const report = new Fuzzer(SEED).run(PACKETS);
  const rate = Math.round(report.packets / report.milliseconds * 1000);
  console.log(`fuzz: ${report.packets} packets, ${rate} a second; ${report.sent} sent, `
    + `${report.icmpSent} errors, ${report.dropped} dropped`);
  assert.ok(report.sent > report.packets / 20, 'many packets got through');
  assert.ok(report.dropped > report.packets / 20, 'many packets did not');
});

test('nor do they where policy looks at every pod, and SYNs are clamped', () => {
  const fuzzer = new Fuzzer(SEED, (scene) => {
    const http = program([{ protocol: 6, first: 0, last: 1023 }, { protocol: 17 }]);
    const policy = new PolicyTables(scene.core, TEST_LIMITS.policy);
    policy.apply(change({
      ruleSets: [ruleSet(1, DENY_ALL, [[1, http]]), ruleSet(2, http), ruleSet(3, ALLOW_ALL)],
      identities: [['10.0.0.0/8', 1], ['fd00::/8', 1]],
      endpoints: [...scene.endpoints].map(([name, { owner }], index) => ({
        namespace: 'fuzz', name, uid: owner, ingress: 1 + (index % 2), egress: 1 + (index % 3),
      })),
    }), (_namespace, name) => scene.endpoints.get(name)?.device ?? null);
    scene.core.setDirectory(layout.DIRECTORY_DENY_WITH_ICMP, 1);
    scene.core.setDirectory(layout.DIRECTORY_MSS_CLAMP, 1);
  });
  const report = fuzzer.run(POLICY_PACKETS);
  console.log(`fuzz with policy: ${report.packets} packets; ${report.sent} sent`);
  for (const reason of ['policyEgress', 'policyIngress', 'fragmentUnknown', 'fragmentTableFull']) {
    const count = report.drops[`outbound ${reason}`] ?? 0;
    assert.ok(count > 1000, `${count} ${reason}`);
  }
  assert.ok(report.sent > report.packets / 20, 'many packets got through');
});

test('core and twin agree on damaged packets', () => {
  const scene = makeHome({ icmpRate: 1_000_000, services: [] });
  const { core, twin } = scene;
  const entries = readCorpus(scene);
  const mutator = new Mutator(core, entries, 1, SEED);
  const descriptor = core.descriptorAddress(0);
  for (let done = 0; done < TWIN_PACKETS; done += 1) {
    mutator.fill(0);
    const { bytes } = readVerdict(core, 0);
    const input = core.view.getUint16(descriptor + layout.DESCRIPTOR_INPUT, true);
    const at = descriptor + layout.DESCRIPTOR_SOURCE;
    const family = core.view.getUint16(at, true);
    const known = family === layout.FAMILY_IPV4 || family === layout.FAMILY_IPV6;
    const source = known ? readRemote(core, at) : null;
    core.exports.processBatch(0, 1, done);
    const expected = twin.decide(input, bytes, source, done);
    const found = readVerdict(core, 0);
    const same = found.sent === expected.sent && found.reason === expected.reason
      && (!found.sent || (found.output === expected.output
        && Buffer.compare(found.bytes, expected.bytes) === 0));
    if (same) continue;
    const show = (verdict: { sent: boolean; reason: number; output: number; bytes: Uint8Array }) =>
      `${verdict.sent} ${REASON_NAMES[verdict.reason]} ${verdict.output} ${toHex(verdict.bytes)}`;
    assert.unreachable(`packet ${done} of device ${input}: ${toHex(bytes)}\n`
      + `core: ${show(found)}\ntwin: ${show(expected)}`);
  }
});

test.run();
