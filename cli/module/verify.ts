// `culvert module verify`: what a component is, and whether a daemon would take it. It is compiled
// here as the daemon compiles it, in a process of its own; nothing of it runs in ours.

import { ModuleError } from '../../modules/error.ts';
import type { ModuleImage } from '../../modules/image.ts';
import { MODULE_MEMORY_CAP_BYTES } from '../../modules/limits.ts';
import { inspectComponent } from '../../modules/runtime.ts';
import { EXIT_FAILED, EXIT_OK } from '../exit.ts';
import { bytesText, print, type OutputFormat } from '../table.ts';
import { readComponent } from './file.ts';
import { settingsOf, type SettingOptions } from './settings.ts';

export interface VerifyOptions extends Pick<SettingOptions, 'allow' | 'memory'> {
  output: OutputFormat;
}

/** What `module verify` prints of a module that would be taken. */
interface Verified {
  file: string;
  ok: true;
  name: string;
  version: string;
  sha256: string;
  world: string;
  imports: string[];
  path: 'direct' | 'component';
  stateful: boolean;
  hasPayload: boolean;
  bytes: number;
  cores: { name: string; bytes: number }[];
  memoryCapBytes: number;
}

/** Returns the exit code: EXIT_FAILED where the module would be refused. */
export async function verifyModule(file: string, options: VerifyOptions): Promise<number> {
  const { allow, memoryCapBytes } = settingsOf('module verify', options);
  const cap = memoryCapBytes ?? MODULE_MEMORY_CAP_BYTES;
  const bytes = await readComponent('module verify', file);
  try {
    const image = await inspectComponent(bytes, { allow, memoryCapBytes: cap });
    const verified = describe(file, bytes.length, cap, image);
    print(options.output, verified, [], () => rows(verified));
    return EXIT_OK;
  } catch (error) {
    if (!(error instanceof ModuleError)) throw error;
    const { kind, message } = error;
    if (options.output === 'json') {
      process.stdout.write(`${JSON.stringify({ file, ok: false, kind, reason: message })}\n`);
    }
    process.stderr.write(`culvert: module verify: ${file}: ${message}\n`);
    return EXIT_FAILED;
  }
}

function describe(file: string, bytes: number, cap: number, image: ModuleImage): Verified {
  const { name, version, sha256, imports, path, stateful, hasPayload, cores } = image;
  return {
    file, ok: true, name, version, sha256,
    world: hasPayload ? 'culvert:policy/payload-module' : 'culvert:policy/policy-module',
    imports, path, stateful, hasPayload, bytes,
    cores: cores.map((core) => ({ name: core.name, bytes: core.bytes.length })),
    memoryCapBytes: cap,
  };
}

const PATHS = {
  direct: 'direct: the core calls it itself',
  component: 'component: called by way of JavaScript, microseconds for each first packet',
};

function rows(verified: Verified): string[][] {
  const cores = verified.cores.map(({ name, bytes }) => `${name} ${bytesText(bytes)}`);
  return [
    ['Name:', verified.name],
    ['Version:', verified.version],
    ['SHA-256:', verified.sha256],
    ['World:', verified.world],
    ['Imports:', verified.imports.join(', ') || 'none'],
    ['Path:', PATHS[verified.path]],
    ['Asks for:', [
      verified.hasPayload ? 'payload' : '', verified.stateful ? 'each packet' : '',
    ].filter(Boolean).join(', ') || 'first packets'],
    ['Size:', `${bytesText(verified.bytes)}; ${cores.join(', ')}`],
    ['Memory:', `at most ${bytesText(verified.memoryCapBytes)}`],
    ['Verdict:', 'a daemon takes it'],
  ];
}
