// time limit: 900 s
// Five minutes of what `npm run soak` does for an hour. The figures stay where the log says.

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { soak } from '../soak/soak.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('deploy/soak');
const MINUTES = 5;

testNeeding('tun', test, `nothing grows and nothing is lost in ${MINUTES} minutes`, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-soak-'));
  console.log(`plot and samples: ${folder}`);
  const print = (line: string): void => console.log(line);
  const checks = await soak({ minutes: MINUTES, keeper: 'systemd', folder, print });
  assert.equal(checks.filter(({ isSound }) => !isSound), []);
});

test.run();
