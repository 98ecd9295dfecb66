// Settings that a running daemon takes over when its configuration is read anew. All others say
// what devices, memory and sockets are made of, and need another daemon.

import type { Core } from '../engine/core.ts';
import {
  DIRECTORY_DENY_WITH_ICMP, DIRECTORY_ICMP_BURST, DIRECTORY_ICMP_RATE, DIRECTORY_MSS_CLAMP,
} from '../wasm/abi/layout.ts';
import { settingPaths, type HostConfig } from './config.ts';

/** Paths of settings that need no other daemon. */
const LIVE: readonly string[] = [
  'icmp.rate', 'icmp.burst', 'mssClamp', 'policy.denyWithIcmp', 'logLevel',
];

export interface Changes {
  /** What differs and can be in force at once. */
  live: string[];
  /** What differs and waits for a restart. */
  waiting: string[];
}

/** Which settings differ. */
export function compareConfigs(before: HostConfig, after: HostConfig): Changes {
  const changed = settingPaths(after)
    .filter(({ path, example: now }) =>
      JSON.stringify(valueAt(before, path)) !== JSON.stringify(now))
    .map(({ path }) => path.join('.'));
  return {
    live: changed.filter((path) => LIVE.includes(path)),
    waiting: changed.filter((path) => !LIVE.includes(path)),
  };
}

/** Has the core go by the settings that need no other daemon. */
export function applyLive(core: Core, { icmp, mssClamp, policy }: HostConfig): void {
  core.setDirectory(DIRECTORY_ICMP_RATE, icmp.rate);
  core.setDirectory(DIRECTORY_ICMP_BURST, icmp.burst);
  core.setDirectory(DIRECTORY_MSS_CLAMP, mssClamp ? 1 : 0);
  core.setDirectory(DIRECTORY_DENY_WITH_ICMP, policy.denyWithIcmp ? 1 : 0);
}

function valueAt(config: HostConfig, path: readonly string[]): unknown {
  return path.reduce<unknown>((branch, name) => (branch as Record<string, unknown>)[name], config);
}
