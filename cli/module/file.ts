// Components and their configurations as files.

import { readFile, stat } from 'node:fs/promises';
import { MODULE_CONFIG_BYTES } from '../../engine/model-modules.ts';
import { MODULE_COMPONENT_BYTES } from '../../modules/limits.ts';
import { CommandError, EXIT_FAILED } from '../exit.ts';
import { bytesText } from '../table.ts';

const STDIN = '/dev/stdin';

/** Reads a component, from standard input where the file is `-`. One that is larger than a module
 * may be is refused, a file unread; then the command ends with `code`. */
export async function readComponent(
  verb: string, file: string, code = EXIT_FAILED,
): Promise<Uint8Array> {
  try {
    const path = file === '-' ? STDIN : file;
    return await readUpTo(path, MODULE_COMPONENT_BYTES);
  } catch (error) {
    throw new CommandError(code, `${verb}: ${file}: ${(error as Error).message}`);
  }
}

/** Reads a module's configuration; null where it has none. */
export async function readConfig(
  verb: string, file: string | null, code = EXIT_FAILED,
): Promise<Uint8Array | null> {
  if (file === null) return null;
  try {
    return await readUpTo(file, MODULE_CONFIG_BYTES);
  } catch (error) {
    throw new CommandError(code, `${verb}: --config ${file}: ${(error as Error).message}`);
  }
}

async function readUpTo(path: string, limit: number): Promise<Uint8Array> {
  const { size } = await stat(path);
  const bytes = size > limit ? null : await readFile(path);
  if (bytes !== null && bytes.length <= limit) return bytes;
  throw new Error(`it has ${bytesText(bytes?.length ?? size)}, the limit is ${bytesText(limit)}`);
}
