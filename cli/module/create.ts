// `culvert module new` and `culvert module build`: a folder to start from, and what becomes of it.

import { buildModule, newModule } from '../../modules/build.ts';
import { CommandError, EXIT_FAILED } from '../exit.ts';
import { print } from '../table.ts';

export interface BuildOptions {
  /** A file, or the format of the answer. */
  output: string;
  /** Programs, where they are not on PATH under their usual names. */
  compiler?: string;
  linker?: string;
}

export interface NewOptions {
  language: keyof typeof TEMPLATES;
  from?: string;
}

const TEMPLATES = { as: 'template', c: 'smallest-c', rust: 'smallest-rust' };

/** Fills a new folder with a module that builds. */
export function createModule(folder: string, { language, from }: NewOptions): void {
  try {
    newModule(folder, from ?? TEMPLATES[language]);
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `module new ${folder}: ${(error as Error).message}`);
  }
  const next = `culvert module build ${folder}`;
  process.stderr.write(`culvert: ${folder} has a module; build it: ${next}\n`);
}

/** Makes a component of a folder and prints where it is. */
export async function compileModule(folder: string, options: BuildOptions): Promise<void> {
  const { output, compiler, linker } = options;
  const isFormat = output === 'json' || output === 'table';
  const compilers = {
    ...compiler === undefined ? {} : { clang: compiler, rustc: compiler },
    ...linker === undefined ? {} : { wasmLd: linker },
  };
  process.stderr.write(`culvert: building ${folder}\n`);
  try {
    const { path, sha256 } = await buildModule(folder,
      isFormat ? { compilers } : { compilers, out: output });
    print(isFormat ? output : 'table', { path, sha256 }, ['FILE', 'SHA256'], () =>
      [[path, sha256]]);
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `module build ${folder}: ${(error as Error).message}`);
  }
}
