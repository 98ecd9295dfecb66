// Eight minutes of churn with faults; churn.slow.test.ts has the two hours.

import { suite } from 'uvu';
import { churn, describeChurn } from './churn.ts';

const test = suite('churn');
const SECONDS = 480;

test('eight minutes of churn end without a difference', async () => {
  console.log(describeChurn('1.36', await churn('1.36', SECONDS, 1)));
});

test.run();
