// `culvert cni`: the CNI plugin under the command's own name, and its installation.

import { readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { installPlugin, uninstallPlugin, type InstallOptions } from '../cni/install.ts';
import { runPlugin } from '../cni/plugin.ts';
import type { Environment } from '../cni/request.ts';
import { CommandError, EXIT_FAILED, EXIT_NO_PERMISSION } from './exit.ts';
import { PACKAGE_FOLDER, VERSION } from './version.ts';

const BUNDLE = join(PACKAGE_FOLDER, 'dist', 'cni', 'culvert.cjs');
const STDIN = 0;
const STDOUT = 1;

/** Does as a container runtime asks. Returns the exit status. */
export function serveRuntime(environment: Environment): Promise<number> {
  return runPlugin({
    environment,
    read: () => Promise.resolve(readFileSync(STDIN, 'utf8')),
    print: (text) => { writeSync(STDOUT, `${text}\n`); },
    version: VERSION,
  });
}

export function installCni(options: InstallOptions): void {
  const files = { bundle: BUNDLE, packageFolder: PACKAGE_FOLDER, node: process.execPath };
  const lines = explained(() => installPlugin(options, files));
  for (const line of lines) process.stdout.write(`${line}\n`);
}

export function uninstallCni(
  options: Pick<InstallOptions, 'binDirectory' | 'configDirectory'>,
): void {
  explained(() => uninstallPlugin(options));
}

function explained<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const isDenied = code === 'EACCES' || code === 'EPERM';
    throw new CommandError(isDenied ? EXIT_NO_PERMISSION : EXIT_FAILED,
      isDenied ? `${message}; run as root` : message);
  }
}
