// Components and their configurations as files.

import { readFile, stat } from 'node:fs/promises';
import { MODULE_CONFIG_BYTES } from '../../engine/model-modules.ts';
import { MODULE_COMPONENT_BYTES } from '../../modules/limits.ts';
import { CommandError, EXIT_FAILED } from '../exit.ts';
import { bytesText } from '../table.ts';

/** Reads a component. A file that no module may be as large as is refused unread. */
export async function readComponent(verb: string, file: string): Promise<Uint8Array> {
  try {
    const { size } = await stat(file);
    if (size > MODULE_COMPONENT_BYTES) {
      const limit = bytesText(MODULE_COMPONENT_BYTES);
      throw new Error(`it has ${bytesText(size)}, and a module has at most ${limit}`);
    }
    return await readFile(file);
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `${verb}: ${file}: ${(error as Error).message}`);
  }
}

/** Reads a module's configuration; null where it has none. */
export async function readConfig(verb: string, file: string | null): Promise<Uint8Array | null> {
  if (file === null) return null;
  try {
    const bytes = await readFile(file);
    if (bytes.length <= MODULE_CONFIG_BYTES) return bytes;
    throw new Error(`it has more than ${bytesText(MODULE_CONFIG_BYTES)}`);
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `${verb}: --config ${file}: ${(error as Error).message}`);
  }
}
