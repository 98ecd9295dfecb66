// `culvert run`: the daemon from its first line to a clean end, and what long-running verbs share.

import { existsSync } from 'node:fs';
import { SystemError } from '../ffi/errno.ts';
import { ConfigError, loadConfig, type HostConfig, type Settings } from '../host/config.ts';
import { SecondInstanceError } from '../host/derived.ts';
import { Host } from '../host/main.ts';
import { StartTimes } from '../host/start-times.ts';
import { TierError } from '../host/tier.ts';
import { notifyReady, SystemdStore } from '../host/systemd-store.ts';
import { CommandError, EXIT_CONFIG, EXIT_FAILED, EXIT_NO_PERMISSION } from './exit.ts';
import { makeLog } from './log.ts';
import { CORE_PATH, VERSION } from './version.ts';

export const DEFAULT_CONFIG = '/etc/culvert/config.yaml';

/** Runs the node daemon until it is told to stop. */
export async function runDaemon(
  file: string | undefined,
  environment: Readonly<Record<string, string | undefined>>,
  flags: Settings,
  stop: AbortSignal,
): Promise<void> {
  const times = new StartTimes();
  times.mark('program');
  const config = readConfig(file, environment, flags);
  const log = makeLog('host', config.logLevel);
  const store = SystemdStore.from(environment);
  const host = await Host.start({
    config, log, version: VERSION, corePath: CORE_PATH, store, times,
  }).catch((error: unknown) => Promise.reject(explain(error)));
  log.debug({}, times.describe());
  log.info({ node: config.nodeName, version: VERSION }, 'ready');
  notifyReady(environment);
  await aborted(stop);
  log.info({}, 'stopping');
  await host.stop();
}

function readConfig(
  file: string | undefined,
  environment: Readonly<Record<string, string | undefined>>,
  flags: Settings,
): HostConfig {
  try {
    const fallback = existsSync(DEFAULT_CONFIG) ? DEFAULT_CONFIG : null;
    return loadConfig(file ?? fallback, environment, flags);
  } catch (error) {
    if (error instanceof ConfigError) throw new CommandError(EXIT_CONFIG, error.message);
    throw error;
  }
}

/** A missing capability or device is one kind of end, everything else another. */
function explain(error: unknown): Error {
  if (error instanceof SecondInstanceError) return new CommandError(EXIT_FAILED, error.message);
  if (error instanceof TierError) return new CommandError(EXIT_NO_PERMISSION, error.message);
  if (!(error instanceof SystemError)) return error as Error;
  const isDenied = ['EPERM', 'EACCES'].includes(error.code);
  const isMissing = isDenied || error.object.includes('/dev/net/tun');
  return new CommandError(isMissing ? EXIT_NO_PERMISSION : EXIT_FAILED, error.message);
}

/** Resolves when the signal is given. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
