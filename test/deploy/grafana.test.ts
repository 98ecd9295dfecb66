// The dashboard asks for metrics that exist, by labels that they have.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { ROOT } from '../support/source.ts';

const DashboardSchema = v.object({
  title: v.string(),
  uid: v.string(),
  panels: v.array(v.object({
    type: v.string(),
    title: v.string(),
    gridPos: v.object({ h: v.number(), w: v.number(), x: v.number(), y: v.number() }),
    targets: v.optional(v.array(v.object({ expr: v.string(), legendFormat: v.string() }))),
  })),
});

const dashboard = v.parse(DashboardSchema,
  JSON.parse(readFileSync(join(ROOT, 'deploy/grafana/culvert.json'), 'utf8')));
const sources = readdirSync(join(ROOT, 'host')).filter((name) => /^metrics.*\.ts$/.test(name))
  .map((name) => readFileSync(join(ROOT, 'host', name), 'utf8')).join('\n');
const exported = new Set([...sources.matchAll(/'((?:culvert|process|nodejs)_\w+)'/g)]
  .map(([, name = '']) => name));
const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets);

test('every metric of the dashboard is one of ours', () => {
  const wanted = expressions.flatMap(({ expr }) =>
    [...expr.matchAll(/\b(?:culvert|process|nodejs)_\w+/g)].map(([name]) => name));
  assert.ok(wanted.length > 20);
  assert.equal(wanted.filter((name) => !exported.has(name)), []);
});

test('counters are asked for their rate, and gauges are not', () => {
  for (const { expr } of expressions) {
    for (const [, before = '', name = ''] of expr.matchAll(/(\w*\(?)((?:culvert|process)_\w+)/g)) {
      const isRate = before === 'rate(' || before === 'increase(';
      assert.is(isRate, name.endsWith('_total'), expr);
    }
  }
});

test('panels do not lie over one another', () => {
  const taken = new Set<string>();
  for (const { gridPos: { h, w, x, y }, title } of dashboard.panels) {
    for (let column = x; column < x + w; column += 1) {
      for (let line = y; line < y + h; line += 1) {
        assert.not(taken.has(`${column} ${line}`), title);
        taken.add(`${column} ${line}`);
      }
    }
    assert.ok(x + w <= 24, title);
  }
});

test('legends name labels that the expression has kept', () => {
  for (const { expr, legendFormat } of expressions) {
    const kept = /\bby \(([^)]*)\)/.exec(expr)?.[1]?.split(', ');
    if (kept === undefined) continue;
    for (const [, label = ''] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) {
      assert.ok(kept.includes(label), `${label} of ${legendFormat} in ${expr}`);
    }
  }
});

test.run();
