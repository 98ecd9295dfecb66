// What the command line may ask about modules. A component comes in parts, from one connection at a
// time.

import { RequestError, method, type Connection, type Methods } from '../../engine/connection.ts';
import {
  ModuleAddSchema, ModuleNameSchema, ModulePartSchema, type ModuleReport,
} from '../../engine/model-modules.ts';
import { PageQuerySchema } from '../../engine/model.ts';
import { MODULE_COMPONENT_BYTES } from '../../modules/limits.ts';
import type { Modules } from '../modules.ts';

/** What a connection has sent so far. */
class Upload {
  #from: Connection | null = null;
  #parts: Uint8Array[] = [];
  #size = 0;

  add(part: Uint8Array, from: Connection): void {
    if (this.#from !== from) {
      if (this.#from?.isOpen === true) {
        throw new RequestError('busy', 'another module is being sent');
      }
      this.#clear(from);
    }
    this.#size += part.length;
    if (this.#size > MODULE_COMPONENT_BYTES) {
      this.#clear(null);
      throw new RequestError('too-big', `a module has more than ${MODULE_COMPONENT_BYTES} bytes`);
    }
    this.#parts.push(part);
  }

  /** All that this connection has sent. */
  take(from: Connection): Uint8Array {
    const parts = this.#from === from ? this.#parts : [];
    if (this.#from === from) this.#clear(null);
    return Buffer.concat(parts);
  }

  #clear(from: Connection | null): void {
    this.#from = from;
    this.#parts = [];
    this.#size = 0;
  }
}

/** The methods of control.sock. There are never more modules than fit a page. */
export function moduleMethods(modules: Modules): Methods {
  const upload = new Upload();
  return {
    'module.part': method(ModulePartSchema, ({ bytes }, from) => {
      upload.add(bytes, from);
      return null;
    }),
    'module.add': method(ModuleAddSchema, (add, from) => modules.add(upload.take(from), add)),
    'module.remove': method(ModuleNameSchema, ({ name }) => modules.remove(name)),
    'module.list': method(PageQuerySchema, async ({ from }) => ({
      entries: (await modules.list()).slice(from) satisfies ModuleReport[], next: null,
    })),
  };
}
