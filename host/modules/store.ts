// The modules of a node on its disk: which there are, in order and with their settings, and by the
// hash of each component its bytes and what was made of them.
//
//   set             one frame: KeptModulesSchema
//   HASH.wasm       the component, as the operator gave it
//   HASH.config     a configuration, likewise
//   HASH.image      what it was compiled to (modules/image.ts)

import { createHash } from 'node:crypto';
import { encodeFrame, FrameReader } from '../../engine/frame.ts';
import { KeptModulesSchema, type KeptModule } from '../../engine/model-modules.ts';
import { parseShape } from '../../engine/shape.ts';
import { loadImage, saveImage, type ModuleImage } from '../../modules/runtime.ts';
import { diskFiles, removeUnfinished, replaceFile, type Files } from '../durable.ts';

const SET = 'set';
const HASHED = /^([0-9a-f]{64})\.(wasm|image|config)/;

export class ModuleStore {
  readonly #folder: string;
  readonly #files: Files;

  constructor(folder: string) {
    this.#folder = folder;
    this.#files = diskFiles(folder);
    removeUnfinished(this.#files);
  }

  /** The modules, in the order in which they are asked. Throws where the file cannot be read. */
  read(): KeptModule[] {
    if (!this.#files.list().includes(SET)) return [];
    const [value] = new FrameReader().push(this.#files.read(SET));
    return parseShape(KeptModulesSchema, value, SET).modules;
  }

  /** Makes these all there are; what belongs to others is removed. */
  write(modules: KeptModule[]): void {
    replaceFile(this.#files, SET, encodeFrame({ modules }));
    const used = new Set(modules.flatMap(({ sha256, config }) => [sha256, config]));
    for (const name of this.#files.list()) {
      const sha256 = HASHED.exec(name)?.[1];
      if (sha256 !== undefined && !used.has(sha256)) this.#files.remove(name);
    }
  }

  /** Stores what a set is to name: a component with its image, and a configuration. */
  put(component: Uint8Array, image: ModuleImage, config: Uint8Array): void {
    replaceFile(this.#files, `${image.sha256}.wasm`, component);
    replaceFile(this.#files, `${hashOf(config)}.config`, config);
    saveImage(this.#folder, image);
  }

  putImage(image: ModuleImage): void {
    saveImage(this.#folder, image);
  }

  /** The image of a component; null where it is not there or of no use: it is made again. */
  image(sha256: string): ModuleImage | null {
    try {
      return loadImage(this.#folder, sha256);
    } catch {
      return null;
    }
  }

  /** A component's bytes. Throws where they are not what the hash says. */
  component(sha256: string): Uint8Array {
    return this.#read(`${sha256}.wasm`, sha256);
  }

  /** A configuration, likewise. */
  config(sha256: string): Uint8Array {
    return this.#read(`${sha256}.config`, sha256);
  }

  #read(name: string, sha256: string): Uint8Array {
    const bytes = this.#files.read(name);
    if (hashOf(bytes) !== sha256) throw new Error(`${name} in ${this.#folder} is damaged`);
    return bytes;
  }
}

/** What bytes are stored under. */
export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
