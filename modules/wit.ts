// Whether a component is a policy module: its worlds, versions, imports and types against those of
// modules/wit/policy.wit. Types are compared as jco tells them in TypeScript, declaration by
// declaration; what that leaves open, the widths of integers, flattens to the same numbers.

import { ModuleError } from './error.ts';
import { grantFor } from './grants.ts';
import type { WasiName } from './image.ts';

export const WIT_VERSION = '0.1.0';
export const POLICY = `culvert:policy/policy@${WIT_VERSION}`;
export const PAYLOAD = `culvert:policy/payload@${WIT_VERSION}`;

/** Versions that this one serves: those with the same minor version (semver.org, clause 4). */
const SERVED = /^0\.1\.\d+$/;
const ALWAYS = ['culvert:policy/types', 'culvert:policy/host'];
const TYPES_FOLDER = 'interfaces/culvert-policy-';

/** The interfaces of a component, with their versions. */
export interface World {
  imports: string[];
  exports: string[];
}

/** Takes the interfaces from a component's WIT as wasm-tools prints it. */
export function parseWorld(wit: string): World {
  const named = (verb: string): string[] => {
    const lines = wit.matchAll(new RegExp(`^\\s*${verb} ([^;\\n]+?);?$`, 'gm'));
    return [...lines].map((match) => match[1] ?? '');
  };
  return { imports: named('import'), exports: named('export') };
}

/** An interface's name without its version, and the version. */
function splitVersion(name: string): [string, string] {
  const at = name.lastIndexOf('@');
  return at < 0 ? [name, ''] : [name.slice(0, at), name.slice(at + 1)];
}

/** The full name of an exported interface of ours; null where it is not exported. Throws
 * ModuleError where it is of a version that is not served. */
export function exportedInterface(world: World, name: string): string | null {
  const found = world.exports.filter((full) => splitVersion(full)[0] === name);
  const served = found.find((full) => SERVED.test(splitVersion(full)[1]));
  if (served !== undefined) return served;
  const [other] = found;
  if (other === undefined) return null;
  throw new ModuleError('wit-version', `The module is made for ${other}; this Culvert runs modules `
    + `of version ${WIT_VERSION}. Build it anew.`);
}

/** Throws ModuleError unless every import is one that all modules may have or that was granted. */
export function checkGrants(world: World, allow: readonly WasiName[]): void {
  const wanting: string[] = [];
  const impossible: string[] = [];
  const grants = new Set<WasiName>();
  for (const full of world.imports) {
    const [name, version] = splitVersion(full);
    const isOurs = ALWAYS.includes(name) || name === 'culvert:policy/clock';
    if (isOurs && !SERVED.test(version)) {
      throw new ModuleError('wit-version', `The module imports ${full}; this Culvert has version `
        + `${WIT_VERSION}.`);
    }
    if (ALWAYS.includes(name)) continue;
    const grant = grantFor(name);
    if (grant === null) impossible.push(full);
    else if (!allow.includes(grant)) {
      wanting.push(full);
      grants.add(grant);
    }
  }
  const needs = wanting.length === 1 ? 'needs' : 'need';
  const refusals = [
    ...wanting.length === 0
      ? [] : [`${wanting.join(', ')}, which ${needs} --allow ${[...grants].sort().join(',')}`],
    ...impossible.length === 0 ? [] : [`${impossible.join(', ')}, which cannot be granted`],
  ];
  if (refusals.length > 0) {
    throw new ModuleError('imports', `The module imports ${refusals.join('; ')}.`);
  }
}

/** Files of TypeScript declarations, as jco generates them. */
export type TypeFiles = [string, Uint8Array][];

/** The declarations of a file by their names, without comments and white space. */
function declarations(source: Uint8Array): Map<string, string> {
  const text = new TextDecoder().decode(source).replace(/\/\*[^]*?\*\//g, '').replace(/\s+/g, ' ');
  const found = new Map<string, string>();
  for (const part of text.split(/\bexport (?=type |interface |function )/).slice(1)) {
    found.set(/^\w+ (\w+)/.exec(part)?.[1] ?? '', part.trim());
  }
  return found;
}

/** Throws ModuleError unless the component's interfaces have the types that ours have. */
export function checkTypes(component: TypeFiles, ours: TypeFiles): void {
  const known = new Map(ours);
  for (const [path, source] of component) {
    if (!path.startsWith(TYPES_FOLDER)) continue;
    const expected = known.get(path);
    const wanted = expected === undefined ? new Map<string, string>() : declarations(expected);
    const found = declarations(source);
    const isExport = /-(policy|payload)\.d\.ts$/.test(path);
    const missing = isExport ? [...wanted.keys()].filter((name) => !found.has(name)) : [];
    for (const name of [...found.keys(), ...missing]) {
      if (wanted.get(name) === found.get(name)) continue;
      const place = path.slice(TYPES_FOLDER.length).replace('.d.ts', '');
      throw new ModuleError('signature', `The module's ${name} in culvert:policy/${place} is not `
        + `that of version ${WIT_VERSION}: it is \`${found.get(name) ?? 'missing'}\` and should `
        + `be \`${wanted.get(name) ?? 'missing'}\`.`);
    }
  }
}
