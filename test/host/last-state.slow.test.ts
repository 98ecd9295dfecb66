// 100,000 flipped bits in a state on disk: none gives a state that never was.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import { Random } from '../support/random.ts';
import { damagedOutcomes } from './support/last-state.ts';

const test = suite('host/last-state (slow)');
const FLIPS = 100_000;

test(`${FLIPS} flipped bits give a state that was, or none`, () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-last-'));
  try {
    const { used, setAside } = damagedOutcomes(folder, FLIPS, new Random(99));
    console.log(`\n${used} used in part or whole, ${setAside} set aside`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
