// `policy test` and `policy explain` with modules, as a thread that can be ended: see watched.ts.

import { parentPort, workerData } from 'node:worker_threads';
import { CommandError, EXIT_FAILED, EXIT_OK } from '../exit.ts';
import { explainPolicy, testPolicy } from '../policy.ts';
import type { Ended, Work } from './watched.ts';

async function work(given: Work): Promise<number> {
  if (given.verb === 'test') return testPolicy(given.options);
  await explainPolicy(given.options);
  return EXIT_OK;
}

function tell(ended: Ended): void {
  parentPort?.postMessage(ended);
}

work(workerData as Work).then(
  (code) => tell({ code, problem: null }),
  (error: unknown) => tell({
    code: error instanceof CommandError ? error.code : EXIT_FAILED,
    problem: error instanceof Error ? error.message : String(error),
  }),
);
