// What the command starts as threads and processes of its own has a file in its bundle.

import { posix } from 'node:path';
import type { SourceFile } from '../source.ts';

export const BUNDLE = 'scripts/bundle-command.ts';
const BUNDLED = /^(cli|host|engine|ffi|sync|cni|modules)\//;
/** A module that is named by its place beside another one, and not imported. */
const STARTED = /new URL\(\s*'\.\/([^']+)\.js'/g;
const ENTRY = /^\s*'?([\w/-]+)'?: '([\w/.-]+\.ts)',$/gm;

/** Modules that the command starts by their place, and that the bundle does not have there. */
export function checkThreads(files: SourceFile[]): string[] {
  const bundle = files.find(({ path }) => path === BUNDLE)?.text ?? '';
  const entries = new Map([...bundle.matchAll(ENTRY)].map(([, name, source]) => [name, source]));
  return files.filter(({ path }) => BUNDLED.test(path)).flatMap(({ path, text }) =>
    [...text.matchAll(STARTED)].flatMap(([, name = '']) => {
      const source = `${posix.join(posix.dirname(path), name)}.ts`;
      if (entries.get(name) === source) return [];
      return [`${path}: starts ${source}; add '${name}': '${source}' to ${BUNDLE}`];
    }));
}
