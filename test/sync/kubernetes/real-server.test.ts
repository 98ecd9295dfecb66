// The same behaviours on any real server: the one that KUBECONFIG names, as a user who may do
// everything. What is created there has names of this process, and is deleted again.
//
//   KUBECONFIG=... node dist/test/sync/kubernetes/real-server.test.js

import { suite } from 'uvu';
import { BEHAVIOURS } from '../../support/api-server/behaviour.ts';
import { Target } from '../../support/api-server/target.ts';
import { printSkip } from '../../support/needs.ts';

const test = suite('real server');
const { KUBECONFIG } = process.env;

for (const [name, behave] of Object.entries(BEHAVIOURS)) {
  const body = async (): Promise<void> => {
    const target = new Target(KUBECONFIG ?? '');
    try {
      await behave(target);
    } finally {
      await target.close();
    }
  };
  if (KUBECONFIG !== undefined && KUBECONFIG !== '') {
    test(name, body);
  } else {
    test.skip(name, body);
    printSkip(name, 'KUBECONFIG names no server');
  }
}

test.run();
