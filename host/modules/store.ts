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
/** Components that are in no set any more and stay: who goes back to one need not wait. */
const RECENT_LIMIT = 4;
const HASHED = /^([0-9a-f]{64})\.(wasm|image|config)/;

/** What an image depends on. */
type Making = Pick<KeptModule, 'sha256' | 'allow' | 'memoryCapBytes'>;

export class ModuleStore {
  readonly #folder: string;
  readonly #files: Files;
  /** Hashes of components whose images were stored or found lately, the last one first. */
  #recent: string[] = [];

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

  /** Makes these all there are; what belongs to others is removed, but for the last few. */
  write(modules: KeptModule[]): void {
    replaceFile(this.#files, SET, encodeFrame({ modules }));
    const used = new Set(
      [...this.#recent, ...modules.flatMap(({ sha256, config }) => [sha256, config])]);
    for (const name of this.#files.list()) {
      const sha256 = HASHED.exec(name)?.[1];
      if (sha256 !== undefined && !used.has(sha256)) this.#files.remove(name);
    }
  }

  /** Stores what a set is to name: a component and a configuration. */
  put(component: Uint8Array, config: Uint8Array): void {
    this.#write('wasm', component);
    this.#write('config', config);
  }

  /** Stores what a component was compiled to. */
  putImage(image: ModuleImage): void {
    saveImage(this.#folder, image);
    this.#remember(image.sha256);
  }

  /** The image of a component, made with these grants and this memory; null where it is not there
   * or of no use: it is made again. */
  image({ sha256, allow, memoryCapBytes }: Making): ModuleImage | null {
    try {
      const image = loadImage(this.#folder, sha256);
      const isSame = image?.memoryCapBytes === memoryCapBytes
        && [...allow].sort().join() === [...image.allow].sort().join();
      if (isSame) this.#remember(sha256);
      return isSame ? image : null;
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

  #remember(sha256: string): void {
    const others = this.#recent.filter((one) => one !== sha256);
    this.#recent = [sha256, ...others].slice(0, RECENT_LIMIT);
  }

  /** Writes a file under its hash, unless it is there and whole. */
  #write(kind: string, bytes: Uint8Array): void {
    const sha256 = hashOf(bytes);
    const name = `${sha256}.${kind}`;
    const isThere = this.#files.list().includes(name) && hashOf(this.#files.read(name)) === sha256;
    if (!isThere) replaceFile(this.#files, name, bytes);
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
