// From the objects of one resource to what is kept of them.
//
// Each is projected as it comes and then forgotten, but for its key, uid and version. An object of
// a version that is known is not looked at again, so a list that is read anew costs nothing where
// nothing has changed. An object that cannot be read is told as a problem and never stops the
// others: its last good version stays, and a policy that has none is replaced by one that allows
// nothing.

import type { ClusterSink } from '../state.ts';
import { project } from '../objects.ts';
import type { Entry } from '../objects.ts';
import { KnownObjects } from './known.ts';
import { identityOf, versionNumber } from './metadata.ts';
import type { ResourceSink } from './reflector.ts';
import type { Resource } from './resources.ts';
import { standIn } from './stand-in.ts';

/** Where the problem of objects stands that are no object of an API server. */
const NAMELESS = '';

export interface ProjectorOptions {
  resource: Resource;
  sink: Pick<ClusterSink, 'upsert' | 'remove'>;
  /** Told of what came together; false where nothing of it has changed anything. */
  onFlush(isChanged: boolean): void;
  /** Told of each object that is new or has changed, as it came, and of null when it is gone. */
  onObject?(key: string, object: object | null): void;
}

/** An object that cannot be read. */
interface Unreadable {
  problem: string;
  /** A good version of it, an earlier one, counts. */
  isKept: boolean;
}

export class Projector implements ResourceSink {
  readonly #options: ProjectorOptions;
  readonly #known = new KnownObjects();
  readonly #unreadable = new Map<string, Unreadable>();
  #isChanged = false;

  constructor(options: ProjectorOptions) {
    this.#options = options;
  }

  /** What is wrong with objects, one line each. */
  get problems(): string[] {
    return [...this.#unreadable.values()].map(({ problem }) => problem);
  }

  /** Objects that are there, and the bytes it takes to know them. */
  get size(): { count: number; bytes: number } {
    return { count: this.#known.count, bytes: this.#known.size };
  }

  begin(): void {
    this.#known.beginList();
    if (this.#unreadable.delete(NAMELESS)) this.#isChanged = true;
  }

  upsert(object: object): void {
    const { kind } = this.#options.resource;
    const identity = identityOf(object);
    if (identity === null) {
      this.#isChanged = true;
      this.#unreadable.set(NAMELESS, { problem: `${kind} without identity`, isKept: false });
      return;
    }
    const { key, uid } = identity;
    const version = versionNumber(identity.version);
    const known = this.#known.get(key);
    if (known !== null && known.uid !== uid) this.#drop(key, known.uid);
    this.#known.set({ key, uid, version });
    if (known?.uid === uid && known.version === version) return;
    this.#isChanged = true;
    this.#options.onObject?.(key, object);
    this.#project(key, object, known?.uid === uid);
  }

  remove(key: string, uid: string): void {
    const known = this.#known.get(key);
    if (known === null || known.uid !== uid) return;
    this.#known.delete(key);
    this.#drop(key, uid);
    this.#options.onObject?.(key, null);
  }

  end(): void {
    for (const { key, uid } of this.#known.missing()) this.remove(key, uid);
  }

  flush(): void {
    const isChanged = this.#isChanged;
    this.#isChanged = false;
    this.#options.onFlush(isChanged);
  }

  #drop(key: string, uid: string): void {
    this.#isChanged = true;
    this.#unreadable.delete(key);
    this.#options.sink.remove(this.#options.resource.kind, key, uid);
  }

  #project(key: string, object: object, wasKnown: boolean): void {
    const { entry, problem } = read(object);
    if (problem === '') {
      this.#unreadable.delete(key);
      if (entry !== null) this.#options.sink.upsert(entry);
      return;
    }
    if (wasKnown && this.#unreadable.get(key)?.isKept !== false) {
      const text = `${problem}; its last good version counts`;
      this.#unreadable.set(key, { problem: text, isKept: true });
      return;
    }
    const replacement = standIn(object);
    if (replacement !== null) this.#options.sink.upsert(replacement);
    const effect = replacement === null ? 'it does not count' : 'whom it is about is isolated';
    this.#unreadable.set(key, { problem: `${problem}; ${effect}`, isKept: false });
  }
}

/** What is kept of the object, or what is wrong with it. */
function read(object: object): { entry: Entry | null; problem: string } {
  try {
    const { entry, problems } = project(object, () => '');
    return { entry, problem: problems[0] ?? '' };
  } catch (error) {
    // Whatever a stranger's object does to the reader, the others must be read.
    const { key = '?' } = identityOf(object) ?? {};
    return { entry: null, problem: `${key}: ${error instanceof Error ? error.message : 'failed'}` };
  }
}
