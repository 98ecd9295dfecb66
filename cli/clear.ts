// `culvert clear`: takes away what a daemon leaves on a node on purpose, for a node that is to have
// none any more. A guard route keeps what is for pods from leaving bare while no daemon runs.

import { closeFd } from '../ffi/file.ts';
import { Links } from '../ffi/netlink.ts';
import { lockRuntimeDirectory, SecondInstanceError } from '../host/derived.ts';
import { GUARD_METRIC } from '../host/limits.ts';
import { CommandError, EXIT_FAILED } from './exit.ts';

export async function clear(
  { runtimeDirectory }: { runtimeDirectory: string },
): Promise<void> {
  const lock = lockOf(runtimeDirectory);
  const links = new Links();
  try {
    const guards = (await links.routes())
      .filter(({ kind, metric }) => kind === 'blackhole' && metric === GUARD_METRIC);
    for (const guard of guards) {
      await links.removeRoute(guard);
      console.log(`removed: blackhole ${guard.prefix} metric ${GUARD_METRIC}`);
    }
  } finally {
    links.close();
    closeFd(lock);
  }
}

/** Nobody runs here while we hold it. */
function lockOf(runtimeDirectory: string): number {
  try {
    return lockRuntimeDirectory(runtimeDirectory);
  } catch (error) {
    if (!(error instanceof SecondInstanceError)) throw error;
    throw new CommandError(EXIT_FAILED, `clear: a daemon runs, stop it first: ${error.message}`);
  }
}
