// A folder in memory whose power fails: what was not forced to the disk may be there or not. It is
// as unkind as POSIX lets a file system be, but keeps the order of changes to the folder.

import type { Files } from '../../../host/durable.ts';
import type { Random } from '../../support/random.ts';

/** Ends the program under test at a point of the test's choice. */
export class PowerCut extends Error {
  override name = 'PowerCut';
}

interface Content {
  now: Uint8Array;
  /** What the disk has for sure. */
  lasting: Uint8Array | null;
}

type Folder = Map<string, Content>;

export class FailingFiles implements Files {
  /** Operations until the power fails. */
  left = Number.POSITIVE_INFINITY;
  #now: Folder = new Map();
  #lasting: Folder = new Map();
  /** Changes of the folder since it was last forced to the disk. */
  #changes: ((folder: Folder) => void)[] = [];

  list(): string[] {
    return [...this.#now.keys()].sort();
  }

  read(name: string): Uint8Array {
    const content = this.#now.get(name);
    if (content === undefined) throw new Error(`no file ${name}`);
    return content.now;
  }

  write(name: string, bytes: Uint8Array): void {
    this.#spend();
    const known = this.#now.get(name);
    if (known !== undefined) {
      known.now = bytes;
      return;
    }
    const content: Content = { now: bytes, lasting: null };
    this.#change((folder) => folder.set(name, content));
  }

  sync(name: string): void {
    this.#spend();
    const content = this.#now.get(name);
    if (content !== undefined) content.lasting = content.now;
  }

  rename(from: string, to: string): void {
    this.#spend();
    this.#change((folder) => {
      const content = folder.get(from);
      if (content === undefined) return;
      folder.delete(from);
      folder.set(to, content);
    });
  }

  remove(name: string): void {
    this.#spend();
    this.#change((folder) => folder.delete(name));
  }

  syncFolder(): void {
    this.#spend();
    this.#lasting = new Map(this.#now);
    this.#changes = [];
  }

  /** What is found when the power is back. */
  restart(random: Random): FailingFiles {
    const next = new FailingFiles();
    const folder = new Map(this.#lasting);
    const kept = random.below(this.#changes.length + 1);
    for (const change of this.#changes.slice(0, kept)) change(folder);
    for (const [name, { now, lasting }] of folder) {
      const isForced = lasting === now;
      const found = isForced ? now : now.slice(0, random.below(now.length + 1));
      next.#now.set(name, { now: found, lasting: found });
    }
    next.#lasting = new Map(next.#now);
    return next;
  }

  /** Puts other bytes into a file, as a worn disk does. */
  damage(name: string, bytes: Uint8Array): void {
    this.#now.set(name, { now: bytes, lasting: bytes });
    this.#lasting.set(name, { now: bytes, lasting: bytes });
  }

  #change(change: (folder: Folder) => void): void {
    change(this.#now);
    this.#changes.push(change);
  }

  #spend(): void {
    if (this.left <= 0) throw new PowerCut();
    this.left -= 1;
  }
}
