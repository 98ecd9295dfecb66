// `culvert restart`: has another daemon take over from the running one, without a pause.

import * as v from 'valibot';
import { StatusReportSchema, type StatusReport } from '../engine/model.ts';
import { ask, withDaemon } from './client.ts';
import { CommandError, EXIT_FAILED, EXIT_UNAVAILABLE } from './exit.ts';

/** For another daemon to load, and to make everything ready. */
const PREPARE_MS = 70_000;
const READY_MS = 130_000;
const STEP_MS = 20;

export async function restart(
  { runtimeDirectory }: { runtimeDirectory: string },
): Promise<void> {
  const before = await status(runtimeDirectory);
  await withDaemon(runtimeDirectory,
    (connection) => connection.request('restart', null, v.null()), { timeoutMs: PREPARE_MS });
  const startMs = performance.now();
  while (performance.now() - startMs < READY_MS) {
    await new Promise((resolve) => setTimeout(resolve, STEP_MS));
    const now = await status(runtimeDirectory).catch((error: unknown) => {
      // Neither of the two answers while one hands over.
      if (error instanceof CommandError && error.code === EXIT_UNAVAILABLE) return null;
      throw error;
    });
    if (now === null) continue;
    if (now.pid === before.pid) break;
    console.log(`process ${now.pid}, version ${now.version}, has taken over`);
    return;
  }
  throw new CommandError(EXIT_FAILED,
    `restart: no other daemon has taken over, process ${before.pid} goes on; its log says why`);
}

function status(runtimeDirectory: string): Promise<StatusReport> {
  return ask(runtimeDirectory, 'status', null, StatusReportSchema);
}
