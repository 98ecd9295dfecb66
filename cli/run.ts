// `culvert run`: the daemon from its first line to a clean end, and what long-running verbs share.

import { existsSync } from 'node:fs';
import type { Logger } from 'pino';
import { SystemError } from '../ffi/errno.ts';
import { ConfigError, loadConfig, type HostConfig, type Settings } from '../host/config.ts';
import { SecondInstanceError } from '../host/derived.ts';
import { Host } from '../host/main.ts';
import { Manager, Reports } from '../host/notify.ts';
import { applyLive, compareConfigs } from '../host/reload.ts';
import { Predecessor } from '../host/predecessor.ts';
import { StartTimes } from '../host/start-times.ts';
import { Succession } from '../host/succession.ts';
import { TierError } from '../host/tier.ts';
import { SystemdStore } from '../host/systemd-store.ts';
import { CommandError, EXIT_CONFIG, EXIT_FAILED, EXIT_NO_PERMISSION } from './exit.ts';
import { makeLog } from './log.ts';
import { CORE_PATH, VERSION } from './version.ts';

export const DEFAULT_CONFIG = '/etc/culvert/config.yaml';

/** What a long-running verb is told from outside. */
export interface Signals {
  stop: AbortSignal;
  /** Has `work` done whenever the configuration is to be read anew. */
  onReload(work: () => void): void;
}

/** Runs the node daemon until it is told to stop. */
export async function runDaemon(
  file: string | undefined,
  environment: Readonly<Record<string, string | undefined>>,
  flags: Settings,
  { stop, onReload }: Signals,
): Promise<void> {
  const times = new StartTimes();
  times.mark('program');
  const read = (): HostConfig => readConfig(file, environment, flags);
  const config = read();
  const log = makeLog('host', config.logLevel);
  const store = SystemdStore.from(environment);
  const manager = new Manager(environment);
  const predecessor = Predecessor.from(environment);
  const over = new AbortController();
  const succession = new Succession(environment, manager, () => over.abort());
  const host: Host = await Host.start({
    config, log, version: VERSION, corePath: CORE_PATH, store, times,
    predecessor,
    restart: () => succession.begin(host),
  }).catch((error: unknown) => {
    predecessor?.leave();
    throw explain(error);
  });
  log.debug({}, times.describe());
  log.info({ node: config.nodeName, version: VERSION }, 'ready');
  const reports = new Reports(manager, host);
  onReload(() => reload(read, { host, log, manager, reports }));
  await Promise.race([aborted(stop), aborted(over.signal)]);
  const isOver = over.signal.aborted;
  if (!isOver) log.info({}, 'stopping');
  reports.close(isOver);
  // Whether another daemon follows, only the manager knows: it lets go of everything otherwise.
  await host.stop(config.device.keep || store !== null || isOver);
}

interface Running {
  host: Host;
  log: Logger;
  manager: Manager;
  reports: Reports;
}

/** Reads the configuration anew. One with a fault changes nothing. */
function reload(read: () => HostConfig, { host, log, manager, reports }: Running): void {
  manager.tellReloading();
  try {
    const config = read();
    const { live, waiting } = compareConfigs(host.options.config, config);
    applyLive(host.core, config);
    log.level = config.logLevel;
    log.info({ live, waiting }, waiting.length === 0 ? 'configuration read'
      : 'configuration read; some of it needs a restart');
    reports.reloaded(waiting.length === 0 ? '' : `needs a restart: ${waiting.join(', ')}`);
  } catch (error) {
    const { message } = error as Error;
    log.error({ error: message }, 'configuration is left as it was');
    reports.reloaded(`configuration is left as it was: ${message}`);
  }
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
  if (error instanceof ConfigError) return new CommandError(EXIT_CONFIG, error.message);
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
