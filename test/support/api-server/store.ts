// What the test API server holds: collections of objects under one counter of versions, the history
// of their changes, and how far back that history is served.
//
// Two floors are kept apart, because real servers do: `compacted` is what etcd has forgotten, a
// collection's `floor` is where its watch cache begins. A watch needs the cache; an exact list or a
// later page needs etcd on 1.20, and is served from the cache on 1.36.
//
// A large collection can be virtual: its objects are made anew whenever they are read, by a
// function of their number, and only changed ones are kept.

import { keyOf, type KubeObject, type ResourceType, type ServerVersion } from './resources.ts';

export type ChangeType = 'ADDED' | 'MODIFIED' | 'DELETED';

export interface Change {
  version: number;
  type: ChangeType;
  key: string;
  object: KubeObject;
  previous: KubeObject | null;
}

/** Changes that a collection's cache keeps unless told otherwise. */
const HISTORY_LIMIT = 20_000;

/** Objects that are made when they are read. */
export interface VirtualObjects {
  key(index: number): string;
  /** JSON as a list's item has it: `metadata` comes first, and has the version. */
  text(index: number, version: number): string;
}

function virtualOf(make: (index: number) => KubeObject): VirtualObjects {
  return {
    key: (index) => keyOf(make(index)),
    text: (index, version) => {
      const object = make(index);
      object.metadata.resourceVersion ??= String(version);
      object.metadata.uid ??= uidOf(0xbeef, index);
      return JSON.stringify(object);
    },
  };
}

/** Everything a backup of etcd has. */
export interface Backup {
  version: number;
  collections: { type: ResourceType; objects: Map<string, KubeObject> }[];
}

/** The clock, the counter of versions and the uids of one server. */
export class Counter {
  version: number;
  /** Added to the time of the machine. */
  skewMs = 0;
  #uids = 0;

  constructor(version: number) {
    this.version = version;
  }

  next(): number {
    this.version += 1;
    return this.version;
  }

  uid(): string {
    this.#uids += 1;
    return uidOf(0xcafe, this.#uids);
  }

  /** The server's time as objects carry it, `laterS` from now. */
  timestamp(laterS = 0): string {
    const at = new Date(Date.now() + this.skewMs + laterS * 1000);
    return at.toISOString().replace(/\.\d+Z$/, 'Z');
  }
}

/** A uid in the form that servers use, from a series and a number. */
export function uidOf(series: number, number: number): string {
  const head = series.toString(16).padStart(8, '0');
  return `${head}-0000-4000-8000-${number.toString(16).padStart(12, '0')}`;
}

/** The objects of one type. */
export class Collection {
  readonly type: ResourceType;
  /** Sorted keys of all objects. */
  readonly keys: string[] = [];
  readonly listeners = new Set<(change: Change) => void>();
  /** Called when the type is no longer served. */
  readonly closers = new Set<() => void>();
  /** The oldest version that a watch may begin from. */
  floor: number;
  /** The oldest version that the state can be given of. */
  stateFloor: number;
  /** The version of the newest change. */
  newest: number;
  readonly #counter: Counter;
  readonly #historyLimit: number;
  #history: Change[] = [];
  /** Changed and added objects; null for a virtual one that is deleted. */
  readonly #own = new Map<string, KubeObject | null>();
  readonly #virtual = new Map<string, number>();
  #maker: VirtualObjects = { key: () => '', text: () => '' };
  #virtualVersion = 0;

  constructor(type: ResourceType, counter: Counter, historyLimit = HISTORY_LIMIT) {
    this.type = type;
    this.#counter = counter;
    this.#historyLimit = historyLimit;
    this.floor = counter.version;
    this.stateFloor = counter.version;
    this.newest = counter.version;
  }

  /** Adds `count` objects that are made by number whenever they are read. */
  virtual(count: number, make: VirtualObjects | ((index: number) => KubeObject)): void {
    if (this.#virtual.size > 0) throw new Error(`${this.type.plural} are virtual already`);
    this.#virtualVersion = this.#counter.next();
    this.#maker = typeof make === 'function' ? virtualOf(make) : make;
    for (let i = 0; i < count; i += 1) {
      const key = this.#maker.key(i);
      this.#virtual.set(key, i);
      this.keys.push(key);
    }
    this.keys.sort();
    this.newest = this.#counter.version;
    this.forget(this.newest);
  }

  get(key: string): KubeObject | null {
    const own = this.#own.get(key);
    if (own !== undefined) return own;
    const text = this.text(key);
    return text === null ? null : JSON.parse(text) as KubeObject;
  }

  /** The JSON of a virtual object that was never changed, as a list's item. Null for others. */
  text(key: string): string | null {
    if (this.#own.has(key)) return null;
    const index = this.#virtual.get(key);
    return index === undefined ? null : this.#maker.text(index, this.#virtualVersion);
  }

  /** Stores an object, new or changed, and tells the listeners. The object is kept as it is. */
  put(object: KubeObject): Change {
    const key = keyOf(object);
    const previous = this.get(key);
    const version = this.#counter.next();
    object.metadata.resourceVersion = String(version);
    this.#own.set(key, object);
    if (previous === null) this.keys.splice(this.#indexOf(key), 0, key);
    return this.#tell({
      version, type: previous === null ? 'ADDED' : 'MODIFIED', key, object, previous,
    });
  }

  /** Deletes an object; the change carries its last state under a new version. Null if there is
   * none. */
  remove(key: string): Change | null {
    const previous = this.get(key);
    if (previous === null) return null;
    const version = this.#counter.next();
    const object: KubeObject = {
      ...previous, metadata: { ...previous.metadata, resourceVersion: String(version) },
    };
    if (this.#virtual.has(key)) this.#own.set(key, null);
    else this.#own.delete(key);
    this.keys.splice(this.#indexOf(key), 1);
    return this.#tell({ version, type: 'DELETED', key, object, previous });
  }

  /** The changes after a version, in order. */
  since(version: number): Change[] {
    let low = 0;
    let high = this.#history.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#history[middle]?.version ?? 0) <= version) low = middle + 1;
      else high = middle;
    }
    return this.#history.slice(low);
  }

  /** The sorted keys and the objects as they were at a version that the history still reaches. */
  at(version: number): { keys: readonly string[]; get: (key: string) => KubeObject | null } {
    const before = new Map<string, KubeObject | null>();
    for (const { key, previous } of this.since(version)) {
      if (!before.has(key)) before.set(key, previous);
    }
    if (before.size === 0) return { keys: this.keys, get: (key) => this.get(key) };
    const keys = this.keys.filter((key) => before.get(key) !== null);
    for (const [key, object] of before) {
      if (object !== null && this.get(key) === null) keys.push(key);
    }
    keys.sort();
    return { keys, get: (key) => before.get(key) ?? this.get(key) };
  }

  /** Forgets the history, as a server does that has just started. */
  forget(floor: number): void {
    this.#history = [];
    this.floor = floor;
    this.stateFloor = this.#counter.version;
  }

  objects(): Map<string, KubeObject> {
    const all = new Map<string, KubeObject>();
    for (const key of this.keys) {
      const object = this.get(key);
      if (object !== null) all.set(key, object);
    }
    return all;
  }

  /** Puts other objects in place of all, without a word to anyone: a restored etcd. */
  replace(objects: ReadonlyMap<string, KubeObject>): void {
    this.#virtual.clear();
    this.#own.clear();
    this.keys.length = 0;
    for (const [key, object] of objects) {
      this.#own.set(key, object);
      this.keys.push(key);
    }
    this.keys.sort();
    this.newest = 0;
    for (const { metadata } of objects.values()) {
      this.newest = Math.max(this.newest, Number(metadata.resourceVersion ?? 0));
    }
    this.forget(this.newest);
  }

  #tell(change: Change): Change {
    this.newest = change.version;
    this.#history.push(change);
    if (this.#history.length > 2 * this.#historyLimit) {
      this.#history = this.#history.slice(-this.#historyLimit);
      this.floor = (this.#history[0]?.version ?? change.version) - 1;
      this.stateFloor = this.floor;
    }
    for (const listener of [...this.listeners]) listener(change);
    return change;
  }

  #indexOf(key: string): number {
    let low = 0;
    let high = this.keys.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.keys[middle] ?? '') < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** All collections of one server. */
export class Store {
  readonly counter: Counter;
  readonly serverVersion: ServerVersion;
  /** Versions below are gone from etcd. */
  compacted = 0;
  readonly #collections = new Map<string, Collection>();
  readonly #historyLimit: number;

  constructor(serverVersion: ServerVersion, types: readonly ResourceType[],
    historyLimit = HISTORY_LIMIT, firstVersion = 100) {
    this.serverVersion = serverVersion;
    this.counter = new Counter(firstVersion);
    this.#historyLimit = historyLimit;
    for (const type of types) this.add(type);
  }

  get version(): number {
    return this.counter.version;
  }

  /** The collection of a type by its plural name. Throws for an unknown one. */
  collection(plural: string): Collection {
    for (const collection of this.#collections.values()) {
      if (collection.type.plural === plural) return collection;
    }
    throw new Error(`no resource ${plural}`);
  }

  find(group: string, version: string, plural: string): Collection | null {
    return this.#collections.get(`${group}/${version}/${plural}`) ?? null;
  }

  types(): ResourceType[] {
    return [...this.#collections.values()].map((collection) => collection.type);
  }

  add(type: ResourceType): Collection {
    const name = `${type.group}/${type.version}/${type.plural}`;
    const known = this.#collections.get(name);
    if (known !== undefined) return known;
    const made = new Collection(type, this.counter, this.#historyLimit);
    this.#collections.set(name, made);
    return made;
  }

  /** Serves a type no longer: its objects are deleted one by one, then its watches end. */
  drop({ group, version, plural }: ResourceType): void {
    const name = `${group}/${version}/${plural}`;
    const collection = this.#collections.get(name);
    if (collection === undefined) return;
    for (const key of [...collection.keys]) collection.remove(key);
    this.#collections.delete(name);
    for (const close of [...collection.closers]) close();
  }

  /** etcd forgets everything before the present. */
  compact(): void {
    this.compacted = this.version;
  }

  /** What a restart of the server does: its caches hold no history. `floor` tells whether a
   * watch may resume at the newest version of a type (seen in three of four restarts) or not even
   * there. */
  restart(floor: 'newest' | 'now' = 'newest'): void {
    for (const collection of this.#collections.values()) {
      collection.forget(floor === 'newest' ? collection.newest : this.version);
    }
  }

  backup(): Backup {
    return {
      version: this.version,
      collections: [...this.#collections.values()]
        .map((collection) => ({ type: collection.type, objects: collection.objects() })),
    };
  }

  /** Goes back to a backup, the counter of versions too. */
  restore(backup: Backup): void {
    this.counter.version = backup.version;
    this.compacted = 0;
    for (const { type, objects } of backup.collections) {
      this.add(type).replace(objects);
    }
  }
}
