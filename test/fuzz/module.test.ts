// Damaged packets past policy modules that look at all they may, say anything and fail: the core
// neither traps by itself nor writes astray, and shows nothing but what is the packet's.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { MODULE_PAYLOAD_BYTES } from '../../wasm/abi/module.ts';
import { attachEvaluate, attachInspect, ModuleTable } from '../../engine/modules.ts';
import { guardBatches, moduleEntry, moduleOfFunction, VERDICT } from '../support/modules.ts';
import { Random } from '../support/random.ts';
import { Fuzzer } from './fuzzer.ts';

const SEED = 7349;
const PACKETS = 2_000_000;
const SAID = [VERDICT.pass, VERDICT.pass, VERDICT.pass, VERDICT.more, VERDICT.allow, VERDICT.deny,
  VERDICT.reject, 5, -1];

test('damaged packets past modules that fail', () => {
  const random = new Random(SEED);
  const say = (): number => {
    if (random.oneIn(16)) throw new Error('fails');
    return random.pick(SAID);
  };
  let faults = 0;
  let shown = 0;
  const fuzzer = new Fuzzer(SEED, ({ core }) => {
    guardBatches(core, () => { faults += 1; });
    const entries = [true, false].map((perPacket, place) => {
      attachEvaluate(core, place, moduleOfFunction(say));
      attachInspect(core, place, (_flow, offset, { length }) => {
        assert.ok(offset >= 0 && length > 0 && offset + length <= MODULE_PAYLOAD_BYTES);
        shown += 1;
        return say();
      });
      const failure = perPacket ? 'pass' : 'deny';
      return moduleEntry(place, { perPacket, failure, hasPayload: true, mayAllow: true });
    });
    new ModuleTable(core).set(entries);
  });
  const report = fuzzer.run(PACKETS);
  console.log(`fuzz with modules: ${report.packets} packets, ${faults} faults, ${shown} shown; `
    + `${report.sent} sent`);
  assert.ok(faults > 1000 && shown > 1000, `${faults} faults, ${shown} shown`);
  for (const reason of ['moduleEgress', 'moduleIngress', 'moduleRejected']) {
    assert.ok((report.drops[`outbound ${reason}`] ?? 0) > 1000, reason);
  }
});

test.run();
