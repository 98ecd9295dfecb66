// time limit: 1200 s
// Two hours of churn with faults, on each version of the server.

import { suite } from 'uvu';
import { churn, describeChurn } from './churn.ts';

const test = suite('two hours of churn');
const SECONDS = 7200;

for (const [i, version] of (['1.36', '1.36-etcd3.4', '1.20'] as const).entries()) {
  test(`${version}: no difference, no more memory`, async () => {
    console.log(describeChurn(version, await churn(version, SECONDS, 10 + i)));
  });
}

test.run();
