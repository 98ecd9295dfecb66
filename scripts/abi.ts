// Reads the shared numbers of wasm/abi and keeps test/golden/abi.txt, which lists every one. The
// host and the core may meet in versions that were built apart; a number that changes without a new
// ABI_VERSION would let them misread each other, so a change has to pass by here.
//
// usage: node dist/scripts/abi.js           says what differs from the list
//        node dist/scripts/abi.js --write   writes the list; needs a new ABI_VERSION
//        node dist/scripts/abi.js --write --unreleased
//                                           the same, where no release has the present version

import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface AbiFile {
  path: string;
  text: string;
}

export interface AbiConstant {
  path: string;
  line: number;
  name: string;
  value: number;
}

export interface Abi {
  constants: AbiConstant[];
  errors: string[];
}

export const GOLDEN = 'test/golden/abi.txt';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** Larger values change type in AssemblyScript and lose their sign in JavaScript. */
const VALUE_MAX = 0x7fffffff;
const CONSTANT = /^export const ([A-Z][A-Z0-9_]*) = (0x[0-9a-f]+|0|[1-9][0-9]*);(?: *\/\/.*)?$/;

/** Reads files in the grammar of wasm/abi: comment lines, blank lines and constants. */
export function parseAbi(files: AbiFile[]): Abi {
  const constants: AbiConstant[] = [];
  const errors: string[] = [];
  const seen = new Map<string, string>();
  for (const file of files) {
    for (const [index, text] of file.text.split('\n').entries()) {
      if (text.trim() === '' || text.startsWith('//')) continue;
      const place = `${file.path}:${index + 1}`;
      const [, name = '', digits = ''] = CONSTANT.exec(text) ?? [];
      const value = Number(digits);
      const first = seen.get(name);
      if (name === '') {
        errors.push(`${place}: only // comments and \`export const NAME = integer;\` stand here`);
      } else if (value > VALUE_MAX) {
        errors.push(`${place}: ${name} is above 2^31 - 1`);
      } else if (first !== undefined) {
        errors.push(`${place}: ${name} is defined already, at ${first}`);
      } else {
        seen.set(name, place);
        constants.push({ path: file.path, line: index + 1, name, value });
      }
    }
  }
  return { constants, errors };
}

/** The list of constants, one a line, in the order of the files. */
export function formatAbi(constants: AbiConstant[]): string {
  return constants.map(({ name, value }) => `${name} = ${value}\n`).join('');
}

/** What differs between a list and the constants, a line for each, and what to do about it. */
export function compareAbi(golden: string, constants: AbiConstant[]): string[] {
  const now = formatAbi(constants);
  if (golden === now) return [];
  const before = golden.split('\n');
  const after = now.split('\n');
  const gone = before.filter((line) => !after.includes(line)).map((line) => `- ${line}`);
  const come = after.filter((line) => !before.includes(line)).map((line) => `+ ${line}`);
  const changes = gone.length + come.length > 0 ? [...gone, ...come] : ['the order of constants'];
  const version = versionLine(golden) === versionLine(now)
    ? 'give ABI_VERSION in wasm/abi/version.ts a new number, then '
    : '';
  return [...changes, `${version}write the list anew: node dist/scripts/abi.js --write`];
}

function versionLine(list: string): string {
  return /^ABI_VERSION = .*$/m.exec(list)?.[0] ?? '';
}

/** The abi files of this tree, sorted by name. */
export function readAbiFiles(): AbiFile[] {
  return readdirSync(join(ROOT, 'wasm/abi')).filter((name) => name.endsWith('.ts')).sort()
    .map((name) => `wasm/abi/${name}`)
    .map((path) => ({ path, text: readFileSync(join(ROOT, path), 'utf8') }));
}

/** The list as it is kept in this tree; empty when there is none. */
export function readGolden(): string {
  const path = join(ROOT, GOLDEN);
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

/** Runs the command. Returns its exit status. */
function main(args: string[]): number {
  const { constants, errors } = parseAbi(readAbiFiles());
  const golden = readGolden();
  const changes = compareAbi(golden, constants);
  const list = formatAbi(constants);
  if (errors.length > 0) {
    process.stderr.write(`${errors.join('\n')}\n`);
    return 1;
  }
  if (changes.length === 0) return 0;
  if (!args.includes('--write')) {
    process.stdout.write(`${changes.join('\n')}\n`);
    return 1;
  }
  const sameVersion = golden !== '' && versionLine(golden) === versionLine(list);
  if (sameVersion && !args.includes('--unreleased')) {
    process.stderr.write(`${GOLDEN}: the constants changed but ABI_VERSION did not; give it a new `
      + 'number in wasm/abi/version.ts, or say --unreleased if no release has this one\n');
    return 1;
  }
  writeFileSync(join(ROOT, GOLDEN), list);
  return 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = main(process.argv.slice(2));
}
