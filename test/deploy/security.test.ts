// How much of the machine the units leave within reach, by systemd's own reckoning. A unit that is
// opened up fails here, and says so in review.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { findTool } from '../../scripts/tools.ts';
import { printSkip } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';

const test = suite('deploy/security');
/** 0 is nothing, 10 everything. */
const LIMITS: Readonly<Record<string, number>> = {
  'culvert.service': 2.2, 'culvert-sync.service': 1.2,
};

const analyze = findTool('systemd-analyze');

for (const [unit, limit] of Object.entries(LIMITS)) {
  const name = `${unit} is exposed by ${limit} at most`;
  if (analyze === null) {
    printSkip(name, 'systemd-analyze is not on PATH');
    continue;
  }
  test(name, () => {
    const text = execFileSync(analyze, [
      'security', '--offline=true', '--no-pager', join(ROOT, 'deploy', 'systemd', unit),
    ], { encoding: 'utf8' });
    const level = Number(/Overall exposure level for .*: ([\d.]+)/.exec(text)?.[1]);
    console.log(`${unit}: ${level}`);
    assert.ok(level <= limit, text);
  });
}

test.run();
