// Puts the plugin and its configuration where container runtimes look for them, and takes them away
// again. Each file is written under another name in its own folder and renamed: a runtime that
// watches the folder never reads half a file, and is told by the rename (containerd does not heed
// new files, only writes, renames and removals).

import { accessSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { imageOf, starterText, type PluginFiles } from './program.ts';

const PROGRAM = 'culvert';
/** What the program runs; runtimes see no plugin in it. */
const IMAGE = '.culvert.image';
const CONFIG_FILE = '10-culvert.conflist';
const PROGRAM_MODE = 0o755;
const DATA_MODE = 0o644;
/** Plugins that a runtime calls beside us. */
const LOOPBACK = 'loopback';
const PORTMAP = 'portmap';

export interface InstallOptions {
  binDirectory: string;
  configDirectory: string;
  /** Where the daemon's control.sock is. */
  runtimeDirectory: string;
  /** Of the network, as the runtime shows it. */
  networkName: string;
  /** Chains the portmap plugin, which does hostPort where the kernel has iptables or nftables. */
  portmap: boolean;
}

/** Installs all files, the configuration last. Returns what the operator should know, line by
 * line. */
export function installPlugin(options: InstallOptions, files: PluginFiles): string[] {
  const { binDirectory, configDirectory, portmap } = options;
  replace(binDirectory, IMAGE, imageOf(files.bundle), DATA_MODE);
  replace(binDirectory, PROGRAM, starterText(files, IMAGE), PROGRAM_MODE);
  const config = `${JSON.stringify(configOf(options), null, 2)}\n`;
  replace(configDirectory, CONFIG_FILE, config, DATA_MODE);
  const needed = [LOOPBACK, ...(portmap ? [PORTMAP] : [])];
  return [
    `wrote ${join(binDirectory, PROGRAM)} and ${join(configDirectory, CONFIG_FILE)}`,
    ...needed.filter((name) => !isThere(join(binDirectory, name))).map((name) =>
      `${join(binDirectory, name)} is missing: the runtime will call it too`),
  ];
}

/** Removes all files, the configuration first, so that no runtime asks for a missing program. */
export function uninstallPlugin(
  { binDirectory, configDirectory }: Pick<InstallOptions, 'binDirectory' | 'configDirectory'>,
): void {
  rmSync(join(configDirectory, CONFIG_FILE), { force: true });
  for (const name of [PROGRAM, IMAGE]) rmSync(join(binDirectory, name), { force: true });
}

/** Without portmap, hostPort is the daemon's to serve or ours to refuse: we ask to be told of it.
 * Debian's portmap speaks no later version than 1.0.0, and a list has one version for all its
 * plugins. */
function configOf({ networkName, runtimeDirectory, portmap }: InstallOptions): object {
  const ours = { type: PROGRAM, runtimeDirectory };
  const capabilities = { portMappings: true };
  return {
    cniVersion: '1.0.0',
    ...(portmap ? {} : { cniVersions: ['1.0.0', '1.1.0'] }),
    name: networkName,
    plugins: portmap
      ? [ours, { type: PORTMAP, capabilities, snat: true }]
      : [{ ...ours, capabilities }],
  };
}

function replace(folder: string, name: string, content: string | Buffer, mode: number): void {
  mkdirSync(folder, { recursive: true });
  const unfinished = join(folder, `.${name}.new`);
  writeFileSync(unfinished, content, { mode });
  renameSync(unfinished, join(folder, name));
}

function isThere(path: string): boolean {
  try {
    accessSync(path);
    return true;
  } catch {
    return false;
  }
}
