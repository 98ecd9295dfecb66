// Metrics as text: what Prometheus's parser takes, and nothing it stumbles over.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { metricsText, single } from '../../engine/exposition.ts';

test('a metric has its help, its type and a line for each sample', () => {
  const text = metricsText([{
    name: 'culvert_drop_packets_total', help: 'Packets dropped.', type: 'counter',
    samples: [
      { labels: { reason: 'noRoute', direction: 'outbound' }, value: 3 },
      { labels: { reason: 'noRoute', direction: 'inbound' }, value: 0 },
    ],
  }]);
  assert.is(text, '# HELP culvert_drop_packets_total Packets dropped.\n'
    + '# TYPE culvert_drop_packets_total counter\n'
    + 'culvert_drop_packets_total{reason="noRoute",direction="outbound"} 3\n'
    + 'culvert_drop_packets_total{reason="noRoute",direction="inbound"} 0\n');
});

test('what is without samples is left out', () => {
  assert.is(metricsText([{ name: 'a', help: 'b', type: 'gauge', samples: [] }]), '');
});

test('values of labels, and help, stay on their line', () => {
  const text = metricsText([single('gauge', 'a', 'back\\slash\nline', 1, { b: 'q"\\\n' })]);
  assert.is(text, '# HELP a back\\\\slash\\nline\n# TYPE a gauge\na{b="q\\"\\\\\\n"} 1\n');
});

test.run();
