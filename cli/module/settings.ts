// What the operator says about a module: as options of `module add` and `module verify`, and in one
// word for `policy test --module FILE,config=PATH,may-allow`.

import { MODULE_FAILURES, type ModuleFailure } from '../../engine/model-modules.ts';
import { GRANTS, type WasiName } from '../../modules/image.ts';
import { MODULE_LIMIT } from '../../wasm/abi/module.ts';
import { CommandError, EXIT_USAGE } from '../exit.ts';

/** Options as commander gives them. */
export interface SettingOptions {
  name?: string;
  order?: string;
  config?: string;
  failure?: ModuleFailure;
  mayAllow?: boolean;
  perPacket?: boolean;
  allow?: string[];
  memory?: string;
}

/** The same with a value for each; null leaves the choice to the daemon. */
export interface ModuleSettings {
  name: string | null;
  order: number | null;
  /** A file. */
  config: string | null;
  failure: ModuleFailure;
  mayAllow: boolean;
  perPacket: boolean;
  allow: WasiName[];
  memoryCapBytes: number | null;
}

const UNITS = new Map([['', 1], ['Ki', 1024], ['Mi', 1024 ** 2], ['Gi', 1024 ** 3]]);

/** Options with values. Throws a CommandError that names the option. */
export function settingsOf(verb: string, options: SettingOptions): ModuleSettings {
  const { order, memory } = options;
  const refuse = (flag: string, value: string, why: string): never => {
    throw new CommandError(EXIT_USAGE, `${verb}: ${flag} ${value}: ${why}`);
  };
  if (order !== undefined && !(/^\d{1,9}$/.test(order) && Number(order) < MODULE_LIMIT)) {
    refuse('--order', order, `not a number from 0 to ${MODULE_LIMIT - 1}`);
  }
  const memoryCapBytes = memory === undefined ? null : parseBytes(memory);
  if (memory !== undefined && memoryCapBytes === null) {
    refuse('--memory', memory, 'not bytes, as 65536, 256Ki or 16Mi');
  }
  const allow = (options.allow ?? []).map((name) =>
    GRANTS.find((grant) => grant === name)
      ?? refuse('--allow', name, `not one of ${GRANTS.join(', ')}`));
  return {
    name: options.name ?? null,
    order: order === undefined ? null : Number(order),
    config: options.config ?? null,
    failure: options.failure ?? 'deny',
    mayAllow: options.mayAllow === true,
    perPacket: options.perPacket === true,
    allow,
    memoryCapBytes,
  };
}

/** Reads `FILE`, or `FILE,config=PATH,may-allow` with any of the options of `module add`. */
export function parseModule(text: string): { file: string; settings: ModuleSettings } {
  const [file = '', ...words] = text.split(',');
  const refuse = (why: string): never => {
    throw new CommandError(EXIT_USAGE, `--module ${text}: ${why}`);
  };
  if (file === '') refuse('no file');
  const options: SettingOptions = {};
  for (const word of words) {
    const at = word.indexOf('=');
    const [key, value] = at < 0 ? [word, null] : [word.slice(0, at), word.slice(at + 1)];
    if (!takeWord(options, key, value)) refuse(`${JSON.stringify(word)} is no option of a module`);
  }
  return { file, settings: settingsOf('--module', options) };
}

/** Enters one option. False where there is none of this name, or not with such a value. */
function takeWord(options: SettingOptions, key: string, value: string | null): boolean {
  if (value === null) {
    if (key === 'may-allow') options.mayAllow = true;
    else if (key === 'per-packet') options.perPacket = true;
    else return false;
    return true;
  }
  if (value === '') return false;
  if (key === 'name' || key === 'order' || key === 'config' || key === 'memory') {
    options[key] = value;
    return true;
  }
  if (key === 'allow') {
    options.allow = [...options.allow ?? [], value];
    return true;
  }
  const failure = MODULE_FAILURES.find((candidate) => candidate === value);
  if (key !== 'failure' || failure === undefined) return false;
  options.failure = failure;
  return true;
}

/** Bytes as Kubernetes writes them; null where it is none of that. */
function parseBytes(text: string): number | null {
  const [, number = '', unit = ''] = /^(\d{1,12})(|Ki|Mi|Gi)$/.exec(text) ?? [];
  const bytes = Number(number) * (UNITS.get(unit) ?? 0);
  return bytes > 0 ? bytes : null;
}
