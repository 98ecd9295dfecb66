// The recorded conformance cases: each flow of each step as upstream expects it.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { judgeFlows, resultOf } from '../../cli/policy/judge.ts';
import { PolicyTwin } from '../reference/policy.ts';
import { coreModule } from '../support/core.ts';
import { readCases } from '../support/policy-cases.ts';
import { entriesOf } from '../support/policy-entries.ts';

const FILES = {
  'e2e-netpol.json': 48, 'cyclonus-generated.json': 230, 'cnp-conformance.json': 17,
};

for (const [file, count] of Object.entries(FILES)) {
  const cases = readCases(file);

  test(`${file} has its cases`, () => {
    assert.is(cases.length, count);
    assert.ok(cases.every(({ steps }) => steps.length > 0
      && steps.every(({ flows, expect }) => flows.length > 0 && expect.size === flows.length)));
  });

  test(`the slow twin answers ${file} as expected`, () => {
    for (const { name, steps } of cases) {
      for (const [index, { objects, flows, expect }] of steps.entries()) {
        const twin = new PolicyTwin(objects);
        for (const flow of flows) {
          const { verdict } = twin.judge(flow);
          if (verdict === expect.get(flow.id)) continue;
          assert.unreachable(`${name}, step ${index}, ${flow.id}: ${verdict}`);
        }
      }
    }
  });

  test(`the core answers ${file} as expected, and for the twin's reasons`, () => {
    for (const { name, steps } of cases) {
      for (const [index, { objects, flows, expect }] of steps.entries()) {
        const twin = new PolicyTwin(objects);
        const judgements = judgeFlows(
          coreModule(), entriesOf(objects), flows, { legacyAnnotation: false });
        for (const [at, judgement] of judgements.entries()) {
          const flow = flows[at] ?? assert.unreachable('a verdict of no flow');
          const { id, ...result } = resultOf(judgement);
          const where = `${name}, step ${index}, ${id}`;
          assert.is(result.verdict, expect.get(id), where);
          assert.equal(result, twin.judge(flow), where);
        }
      }
    }
  });
}

test.run();
