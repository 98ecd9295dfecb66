// The plot of what policy modules cost.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { modulePlot } from '../../bench/module-plot.ts';
import { describeMachine, type Measurement } from '../../bench/report.ts';

function measured(name: string, nsPerOp: number): Measurement {
  return { name, nsPerOp, ops: 64, hash: '0' };
}

test('there is a bar for each figure, with its number', () => {
  const report = {
    machine: describeMachine(), ratios: {},
    results: [measured('module/none', 200), measured('module/direct', 205.4),
      measured('module/component', 2604.2), measured('policy/100', 7)],
  };
  const svg = modulePlot(report) ?? '';
  assert.is(svg.match(/<rect/g)?.length, 4, 'three bars, and the ground');
  for (const figure of ['>200<', '>205<', '>2,604<']) assert.ok(svg.includes(figure), figure);
  assert.is(svg.match(/<text/g)?.length, svg.match(/<\/text>/g)?.length);
  assert.not.match(svg, /NaN|Infinity|undefined/);
  assert.is(modulePlot({ ...report, results: [] }), null);
});

test.run();
