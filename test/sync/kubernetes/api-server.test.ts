// The test API server passes what real ones pass, in each version that it imitates.

import { suite } from 'uvu';
import { BEHAVIOURS } from '../../support/api-server/behaviour.ts';
import type { ServerVersion } from '../../support/api-server/resources.ts';
import { onTestServer } from '../../support/api-server/target.ts';

const test = suite('test API server');
const VERSIONS: readonly ServerVersion[] = ['1.36', '1.36-etcd3.4', '1.20'];

for (const version of VERSIONS) {
  for (const [name, behave] of Object.entries(BEHAVIOURS)) {
    test(`${version}: ${name}`, () => onTestServer(version, behave));
  }
}

test.run();
