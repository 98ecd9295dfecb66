// One resource of the API server, followed: listed, then watched from the version of the list on.
//
//        +----------- expired, gone back, out of order ------------+
//        v                                                         |
//     check ---> WatchList ------------------- its end mark -----> watch <--+
//        |           | not offered                                 |  |     |
//        |           +------> list, page by page ------------------+  +-----+
//        |                                                    ends, falls silent, is cut
//        +--- forbidden, absent: the same again, slowly
//
// The check asks for a list of one object. It tells at once whether the resource is there for us,
// and its version tells whether the server has gone back in time (a storage that was restored): a
// watch from a version of the future is granted and silent. So it comes before the first list,
// after a connection was lost, and when a watch has said nothing for long.
//
// Nothing that a server may do is a sign of health: it ends watches properly while it stops, keeps
// them open without a word, sends bookmarks twice or never. What counts are deadlines of our own.

import { ApiError, statusError } from './client.ts';
import type { ApiClient, Query } from './client.ts';
import { JsonError, JsonStream } from './json-stream.ts';
import { continueOf, endsInitialEvents, identityOf, versionNumber, versionOf } from './metadata.ts';
import type { Resource } from './resources.ts';
import { pause } from '../bell.ts';
import { TIMING } from './timing.ts';
import type { Timing } from './timing.ts';

/** Where a reflector delivers. What is not mentioned between `begin` and `end` is no more; after
 * that come changes. `begin` without an `end` before it begins anew. */
export interface ResourceSink {
  begin(): void;
  upsert(object: object): void;
  remove(key: string, uid: string): void;
  end(): void;
  /** What came so far came together, and no more of it is at hand. */
  flush(): void;
}

export type Phase = 'listing' | 'watching' | 'failing' | 'forbidden' | 'absent';

export interface ResourceState {
  resource: string;
  phase: Phase;
  /** Since when it is in this phase, by the clock on the wall. */
  sinceMs: number;
  /** What is wrong; empty for nothing. */
  message: string;
  /** Everything was delivered once. */
  hasSynced: boolean;
  /** Since when changes may be missed, by the clock on the wall, which may be set meanwhile, and
   * for how long; null while they are not. */
  staleSinceMs: number | null;
  staleForMs: number | null;
  resourceVersion: string | null;
}

export interface ReflectorCounters {
  checks: number;
  lists: number;
  watchLists: number;
  watches: number;
  /** Lists and WatchLists after the first complete one. */
  relists: number;
  /** Watches that were asked for again after a silence. */
  renewals: number;
  added: number;
  modified: number;
  deleted: number;
  bookmarks: number;
  bytes: number;
  errors: Record<string, number>;
}

export interface ReflectorOptions {
  client: ApiClient;
  resource: Resource;
  sink: ResourceSink;
  onState?(state: ResourceState): void;
  timing?: Partial<Timing>;
  /** 0 to 1, for the jitter. */
  random?(): number;
}

/** How many WatchLists in a row may break before a list is tried. */
const WATCH_LIST_TRIES = 3;
/** However long a server wants us to wait. */
const RETRY_AFTER_LIMIT_MS = 60_000;

/** A watch as it goes. */
interface Watch {
  /** It has not told all objects yet. */
  isInitial: boolean;
  /** The server says that it cannot tell all objects. */
  isRefused: boolean;
  /** Events and bookmarks. */
  count: number;
}

export class Reflector {
  readonly counters: ReflectorCounters = {
    checks: 0, lists: 0, watchLists: 0, watches: 0, relists: 0, renewals: 0,
    added: 0, modified: 0, deleted: 0, bookmarks: 0, bytes: 0, errors: {},
  };
  readonly #options: ReflectorOptions;
  readonly #timing: Timing;
  #phase: Phase = 'listing';
  #message = '';
  #hasSynced = false;
  #sinceMs = Date.now();
  #stale: { wallMs: number; beganMs: number } | null = {
    wallMs: this.#sinceMs, beganMs: performance.now(),
  };
  /** Where the next watch begins; null where only a list will do. */
  #version: string | null = null;
  #mustCheck = true;
  /** The older of two places is asked, since the server has not had the other. */
  #isOlder = false;
  /** What was asked for last, as RBAC says it. */
  #verb: 'list' | 'watch' = 'list';
  /** Lists are asked for whole: a token for the next page has expired. */
  #isUnpaged = false;
  #brokenWatchLists = 0;
  #failures = 0;
  // Times of the monotonic clock.
  #noWatchListUntilMs = 0;
  /** The last word about the resource. */
  #provenAtMs = 0;
  /** The beginning of the last watch. */
  #openedAtMs = Infinity;
  /** The first of the refusals at hand; null for none. */
  #refusedAtMs: number | null = null;

  constructor(options: ReflectorOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
  }

  get state(): ResourceState {
    return {
      resource: this.#options.resource.plural,
      phase: this.#phase,
      sinceMs: this.#sinceMs,
      message: this.#message,
      hasSynced: this.#hasSynced,
      staleSinceMs: this.#stale?.wallMs ?? null,
      staleForMs: this.#stale === null ? null : performance.now() - this.#stale.beganMs,
      resourceVersion: this.#version,
    };
  }

  /** Where the resource is. */
  get #place(): Pick<Resource, 'apiVersion' | 'path'> {
    const { resource } = this.#options;
    return (this.#isOlder ? resource.older : undefined) ?? resource;
  }

  /** Follows the resource until the signal aborts. Rejects only for errors of the sink. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        if (this.#mustCheck) await this.#check(signal);
        if (this.#version === null) await this.#list(signal);
        else await this.#watch(this.#version, signal);
      } catch (error) {
        if (!signal.aborted) await this.#recover(failureOf(error), signal);
      }
    }
  }

  async #check(signal: AbortSignal): Promise<void> {
    this.counters.checks += 1;
    this.#verb = 'list';
    const { client } = this.#options;
    const { path } = this.#place;
    const version = listVersion(await client.get(path, { limit: 1 }, signal), path);
    this.#mustCheck = false;
    this.#provenAtMs = performance.now();
    // Versions that are no numbers cannot be compared: what we have may be of another time.
    const isOurs = this.#version === null
      || versionNumber(version) >= versionNumber(this.#version);
    if (!isOurs) this.#version = null;
  }

  async #list(signal: AbortSignal): Promise<void> {
    if (this.#hasSynced) this.counters.relists += 1;
    const isOffered = performance.now() >= this.#noWatchListUntilMs;
    const isTried = isOffered && this.#brokenWatchLists < WATCH_LIST_TRIES;
    if (isTried && await this.#watchList(signal)) return;
    await this.#listPages(signal);
  }

  /** False where the server does not do WatchList. */
  async #watchList(signal: AbortSignal): Promise<boolean> {
    const watch = { isInitial: true, isRefused: false, count: 0 };
    this.counters.watchLists += 1;
    try {
      await this.#follow(watch, {
        sendInitialEvents: true, resourceVersionMatch: 'NotOlderThan',
      }, signal);
      return true;
    } catch (error) {
      if (!watch.isInitial || signal.aborted) throw error;
      this.#brokenWatchLists += 1;
      const failure = failureOf(error);
      // Without the right to watch there is still a list.
      if (failure.status === 403) return false;
      if (!watch.isRefused && !isWatchListRefusal(failure)) throw error;
      this.#noWatchListUntilMs = performance.now() + this.#timing.watchListRetryMs;
      return false;
    }
  }

  async #listPages(signal: AbortSignal): Promise<void> {
    const { sink } = this.#options;
    this.counters.lists += 1;
    this.#verb = 'list';
    let version: string | null = null;
    let token = '';
    sink.begin();
    do {
      const page = await this.#listPage(token, signal);
      version ??= listVersion(page, this.#place.path);
      token = continueOf(page);
    } while (token !== '');
    this.#isUnpaged = false;
    this.#complete(version);
    sink.flush();
  }

  /** Returns the page without its items. */
  async #listPage(token: string, signal: AbortSignal): Promise<object> {
    const { client, resource: { kind }, sink } = this.#options;
    const { apiVersion, path } = this.#place;
    const query = {
      limit: this.#isUnpaged ? undefined : this.#timing.pageSize,
      continue: token === '' ? undefined : token,
    };
    // Items of a list do not say what they are.
    const stream = new JsonStream({
      shape: 'list', onObject: (object) => sink.upsert({ apiVersion, kind, ...object }),
    });
    try {
      const onOpen = (): void => this.#enter('listing');
      for await (const chunk of client.stream(path, query, signal, { onOpen })) {
        this.#push(stream, chunk);
      }
    } catch (error) {
      if (token !== '' && error instanceof ApiError && error.status === 410) this.#isUnpaged = true;
      throw error;
    }
    return stream.end() ?? {};
  }

  async #watch(resourceVersion: string, signal: AbortSignal): Promise<void> {
    this.counters.watches += 1;
    const watch = { isInitial: false, isRefused: false, count: 0 };
    await this.#follow(watch, { resourceVersion }, signal);
  }

  /** Takes the events of one watch until it ends or falls silent. */
  async #follow(watch: Watch, query: Query, signal: AbortSignal): Promise<void> {
    const { client, sink } = this.#options;
    const { path } = this.#place;
    const { silenceMs, watchSeconds, shortWatchMs, checkMs } = this.#timing;
    this.#verb = 'watch';
    const beganAtMs = performance.now();
    const timeoutSeconds = Math.round(watchSeconds * (1 + this.#random()));
    const stream = new JsonStream({
      shape: 'objects', onObject: (event) => this.#take(watch, event),
    });
    const bytes = client.stream(
      path, { watch: 1, allowWatchBookmarks: true, timeoutSeconds, ...query }, signal,
      {
        silenceTimeoutMs: Math.round(silenceMs * (1 - this.#random() / 10)),
        onOpen: () => this.#open(watch),
      });
    if (watch.isInitial) sink.begin();
    try {
      for await (const chunk of bytes) this.#push(stream, chunk);
      stream.end();
      if (watch.isInitial) throw new ApiError(0, 'NoEndMark', `${path}: a WatchList without end`);
      if (watch.count === 0) this.#mustCheck = true;
    } catch (error) {
      const isSilent = error instanceof ApiError && error.reason === 'Silent';
      if (!isSilent || watch.isInitial) throw error;
      this.counters.renewals += 1;
    }
    const now = performance.now();
    if (now - this.#provenAtMs >= checkMs) this.#mustCheck = true;
    if (watch.count === 0 && now - beganAtMs < shortWatchMs) {
      throw new ApiError(200, 'ShortWatch', `${path}: the server ended a watch at once`);
    }
  }

  #push(stream: JsonStream, chunk: Buffer): void {
    this.counters.bytes += chunk.length;
    try {
      stream.push(chunk);
    } finally {
      // What came before an error counts, and nothing may come after it.
      this.#options.sink.flush();
    }
  }

  #open({ isInitial }: Watch): void {
    this.#openedAtMs = performance.now();
    this.#refusedAtMs = null;
    this.#enter(isInitial ? 'listing' : 'watching');
  }

  #take(watch: Watch, event: object): void {
    const { type, object } = event as { type?: unknown; object?: unknown };
    if (typeof object !== 'object' || object === null) {
      throw new JsonError('an event without an object');
    }
    watch.count += 1;
    if (type === 'ERROR') {
      const failure = statusError(object);
      watch.isRefused = failure.status >= 500;
      throw failure;
    }
    this.#provenAtMs = performance.now();
    if (type === 'BOOKMARK') this.#takeBookmark(watch, object);
    else if (type === 'ADDED' || type === 'MODIFIED') this.#takeObject(watch, type, object);
    else if (type === 'DELETED') this.#takeRemoval(watch, object);
    else throw new JsonError(`an event of type ${String(type)}`);
  }

  /** A hull of an object, of which only the version counts; it may be one that has passed. */
  #takeBookmark(watch: Watch, bookmark: object): void {
    this.counters.bookmarks += 1;
    const version = versionOf(bookmark);
    if (version === null) return;
    if (!watch.isInitial) {
      const isPast = versionNumber(version) < versionNumber(this.#version ?? '');
      if (!isPast) this.#version = version;
    } else if (endsInitialEvents(bookmark)) {
      watch.isInitial = false;
      this.#complete(version);
      this.#enter('watching');
    }
  }

  #takeObject(watch: Watch, type: 'ADDED' | 'MODIFIED', object: object): void {
    this.counters[type === 'ADDED' ? 'added' : 'modified'] += 1;
    const version = versionOf(object);
    if (!watch.isInitial && version !== null) this.#advance(version);
    this.#options.sink.upsert(object);
  }

  #takeRemoval(watch: Watch, object: object): void {
    this.counters.deleted += 1;
    const identity = identityOf(object);
    if (identity === null) throw new JsonError('a deletion of an object without identity');
    if (!watch.isInitial) this.#advance(identity.version);
    this.#options.sink.remove(identity.key, identity.uid);
  }

  /** Events come in the order of their versions. Where one does not, others may have been lost, or
   * have been taken for newer than they are. */
  #advance(version: string): void {
    if (versionNumber(version) < versionNumber(this.#version ?? '')) {
      const { path } = this.#place;
      const message = `${path}: version ${version} came after version ${this.#version}`;
      throw new ApiError(410, 'OutOfOrder', message);
    }
    this.#version = version;
  }

  /** Everything that is there has been told, as of the version. */
  #complete(version: string): void {
    this.#brokenWatchLists = 0;
    this.#version = version;
    this.#hasSynced = true;
    this.#provenAtMs = performance.now();
    this.#options.sink.end();
  }

  /** Notes the failure and waits. */
  async #recover(failure: ApiError, signal: AbortSignal): Promise<void> {
    const { status, reason, retryAfterMs } = failure;
    const { errors } = this.counters;
    errors[reason] = (errors[reason] ?? 0) + 1;
    const { stableMs, backoffFirstMs, backoffCapMs } = this.#timing;
    if (performance.now() - this.#openedAtMs >= stableMs) this.#failures = 0;
    this.#openedAtMs = Infinity;
    let waitMs = Math.min(backoffCapMs, backoffFirstMs * 2 ** Math.min(this.#failures, 20));
    this.#failures += 1;
    // A server that we lost may come back as another one.
    if (status === 0) this.#mustCheck = true;
    if (status === 410) this.#version = null;
    else if (status === 403 || status === 404) waitMs = this.#refuse(failure, waitMs);
    else this.#fail(failure.message);
    const askedMs = Math.min(retryAfterMs ?? 0, RETRY_AFTER_LIMIT_MS);
    await pause(Math.max(waitMs * (1 - this.#random() / 2), askedMs), signal);
  }

  /** Notes a failure that says nothing about what we may see. */
  #fail(message: string): void {
    this.#refusedAtMs = null;
    this.#enter('failing', message);
  }

  /** Believes a refusal only when it has lasted for a while. Returns when to ask again. */
  #refuse(failure: ApiError, backoffMs: number): number {
    const { status } = failure;
    const message = `cannot ${this.#verb}: ${failure.message}`;
    const { refusalGraceMs, absenceGraceMs, lossGraceMs, slowRetryMs } = this.#timing;
    this.#refusedAtMs ??= performance.now();
    const isAbsent = status === 404;
    if (isAbsent) this.#isOlder = !this.#isOlder;
    const absentMs = this.#hasSynced ? lossGraceMs : absenceGraceMs;
    const graceMs = isAbsent ? absentMs : refusalGraceMs;
    const leftMs = this.#refusedAtMs + graceMs - performance.now();
    if (leftMs > 0) {
      this.#enter('failing', message);
      // Half of it at least is waited for.
      return Math.min(backoffMs, leftMs * 2);
    }
    if (isAbsent && this.#phase !== 'absent') {
      // What a server does not have has no objects.
      this.#version = null;
      this.#options.sink.begin();
      this.#options.sink.end();
      this.#options.sink.flush();
    }
    this.#enter(isAbsent ? 'absent' : 'forbidden', message);
    return slowRetryMs;
  }

  #enter(phase: Phase, message = ''): void {
    if (phase === this.#phase && message === this.#message) return;
    const now = Date.now();
    if (phase !== this.#phase) this.#sinceMs = now;
    this.#phase = phase;
    this.#message = message;
    if (phase === 'watching') this.#stale = null;
    else this.#stale ??= { wallMs: now, beganMs: performance.now() };
    this.#options.onState?.(this.state);
  }

  #random(): number {
    return (this.#options.random ?? Math.random)();
  }
}

/** Whether a WatchList failed so that a list may be better: the server does not know its
 * parameters, or never says that all has been told. */
function isWatchListRefusal({ status, reason }: ApiError): boolean {
  return [400, 405, 422, 501].includes(status) || reason === 'NoEndMark' || reason === 'Silent';
}

/** Throws what is not the server's fault. */
function failureOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (!(error instanceof JsonError)) throw error;
  return new ApiError(200, 'NotJson', error.message, null, { cause: error });
}

function listVersion(list: unknown, path: string): string {
  const version = typeof list === 'object' && list !== null ? versionOf(list) : null;
  if (version === null) throw new JsonError(`${path}: no list with a version`);
  return version;
}
