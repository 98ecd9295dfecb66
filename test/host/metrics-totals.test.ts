// Sums over things that come and go: they never go back.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Traffic } from '../../engine/counters.ts';
import { Totals } from '../../host/metrics-totals.ts';

function traffic(packets: number): Traffic {
  return { rxPackets: packets, rxBytes: packets * 10, txPackets: packets * 2, txBytes: 0 };
}

test('what is gone still counts, and so does what began anew', () => {
  const totals = new Totals();
  totals.note('a', 'vxlan', traffic(5));
  totals.note('b', 'vxlan', traffic(7));
  totals.note('c', 'udp', traffic(1));
  assert.is(totals.sums().get('vxlan')?.rxPackets, 12);
  totals.note('a', 'vxlan', traffic(6));
  assert.is(totals.sums().get('vxlan')?.rxPackets, 13);
  totals.note('a', 'vxlan', traffic(2));
  const sums = totals.sums();
  assert.equal(sums.get('vxlan'), { rxPackets: 15, rxBytes: 150, txPackets: 30, txBytes: 0 });
  assert.is(sums.get('udp')?.txPackets, 2);
});

test.run();
