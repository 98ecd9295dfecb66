// Lists, pages and watches, as the two servers give them. What is done here where a real server
// surprises is numbered in test/kube-recordings/README.md.

import { createGzip } from 'node:zlib';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Body, type Fault } from './faults.ts';
import { apiVersionOf, type Fields, type KubeObject, type ResourceType } from './resources.ts';
import { matcherOf, type Matcher } from './selectors.ts';
import { Refusal, badRequest, failure, invalid, noProgress, notANumber, tooLarge, tooOld,
  tooOldContinue, tooOldList, type Cause, type Status } from './status.ts';
import type { Change, Collection, Store } from './store.ts';

/** What a read needs to know of its request. */
export interface Reading {
  store: Store;
  collection: Collection;
  namespace: string | null;
  query: URLSearchParams;
  fault: Fault | null;
  settings: ReadSettings;
}

export interface ReadSettings {
  /** How long one second of the server lasts. */
  secondMs: number;
  /** Bodies larger than this are compressed for a client that asks. */
  gzipBytes: number;
  /** Bodies up to this size have a content-length. */
  plainBytes: number;
}

/** Bookmarks before the end of a watch that has a time-out, in seconds before it. */
const BOOKMARKS_BEFORE_END_S = { '1.20': [2], '1.36': [2.5, 1.5], '1.36-etcd3.4': [2] };
/** The others are about so many seconds apart. */
const BOOKMARK_S = { '1.20': 59.6, '1.36': 61, '1.36-etcd3.4': 61 };
/** How long a request for a future version waits before it is refused. */
const FUTURE_WAIT_S = 3;
const PIECE_BYTES = 65_536;
const PARTIAL = /as=PartialObjectMetadata/;

const FORBIDDEN_VERSION_MATCH: Cause = {
  reason: 'FieldValueForbidden', field: 'resourceVersionMatch',
  message: 'Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided',
};

function cause(field: string, message: string): Cause {
  return { reason: 'FieldValueForbidden', field, message: `Forbidden: ${message}` };
}

/** Which combinations of parameters a server refuses. */
export function checkOptions({ store, query }: Reading, isWatch: boolean): void {
  const match = query.get('resourceVersionMatch') ?? '';
  const initial = query.get('sendInitialEvents') !== null;
  const causes: Cause[] = [];
  const isOld = store.serverVersion === '1.20';
  if (isWatch && match !== '') {
    if (isOld) {
      causes.push(cause('resourceVersionMatch', 'resourceVersionMatch is forbidden for watch'));
    } else if (!initial) {
      causes.push(cause('resourceVersionMatch',
        'resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided'));
    }
  }
  if (match !== '' && (query.get('resourceVersion') ?? '') === '' && (!isWatch || isOld)) {
    causes.push(FORBIDDEN_VERSION_MATCH);
  }
  if (!isOld && isWatch && initial && match === '') {
    causes.push(cause('resourceVersionMatch',
      'sendInitialEvents requires setting resourceVersionMatch to NotOlderThan'));
  }
  if (!isOld && !isWatch && initial) {
    causes.push(cause('sendInitialEvents', 'sendInitialEvents is forbidden for list'));
  }
  if (causes.length > 0) throw new Refusal(invalid('ListOptions', 'meta.k8s.io', '', causes));
}

function versionOf(query: URLSearchParams): number {
  const text = query.get('resourceVersion') ?? '';
  if (!/^\d*$/.test(text)) throw new Refusal(notANumber(text));
  return Number(text);
}

/** An object as an item of a list, or as the object of an event. */
export class Shape {
  readonly #type: ResourceType;
  readonly #isPartial: boolean;
  readonly #pad: Record<string, string> | null;

  constructor(type: ResourceType, isPartial: boolean, fault: Fault | null) {
    this.#type = type;
    this.#isPartial = isPartial;
    this.#pad = fault?.padBytes === undefined ? null
      : { 'example.com/padding': 'x'.repeat(fault.padBytes) };
  }

  /** True if a built-in object's JSON is its item as it stands. */
  get isPlain(): boolean {
    return !this.#type.isCustom && !this.#isPartial && this.#pad === null;
  }

  list(): { kind: string; apiVersion: string } {
    if (this.#isPartial) {
      return { kind: 'PartialObjectMetadataList', apiVersion: 'meta.k8s.io/v1' };
    }
    return { kind: `${this.#type.kind}List`, apiVersion: apiVersionOf(this.#type) };
  }

  item(object: KubeObject): Fields {
    const whole = this.event(object);
    if (this.#type.isCustom || this.#isPartial) return whole;
    const { kind: _kind, apiVersion: _apiVersion, ...item } = whole;
    return item;
  }

  event(object: KubeObject): Fields {
    const { kind: _kind, apiVersion: _apiVersion, metadata, ...rest } = object;
    const head = this.#isPartial
      ? { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1' }
      : { kind: this.#type.kind, apiVersion: apiVersionOf(this.#type) };
    const padded = this.#pad === null ? metadata
      : { ...metadata, annotations: { ...metadata.annotations, ...this.#pad } };
    const whole = { ...head, metadata: padded, ...(this.#isPartial ? {} : rest) };
    return this.#type.isCustom ? sorted(whole) : whole;
  }

  bookmark(version: number, isEnd: boolean, isOld: boolean): string {
    const object = {
      ...this.event({ metadata: { name: '' } }),
      metadata: {
        resourceVersion: String(version), ...(isOld ? { creationTimestamp: null } : {}),
        ...(isEnd ? { annotations: { 'k8s.io/initial-events-end': 'true' } } : {}),
      },
      ...(this.#isPartial ? {} : this.#type.hull),
    };
    return `${JSON.stringify({ type: 'BOOKMARK', object })}\n`;
  }
}

/** Fields by name, as custom resources come. */
function sorted(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function shapeOf(request: IncomingMessage, { collection, fault }: Reading): Shape {
  return new Shape(collection.type, PARTIAL.test(request.headers.accept ?? ''), fault);
}

interface Token {
  v: string;
  rv: number;
  start: string;
}

/** Where a list goes on: 1.36 writes keys with a leading slash, 1.20 without. */
function continueToken(store: Store, version: number, start: string): string {
  const slash = store.serverVersion === '1.20' ? '' : '/';
  const token: Token = { v: 'meta.k8s.io/v1', rv: version, start: `${slash}${start}\0` };
  return Buffer.from(JSON.stringify(token)).toString('base64url');
}

function parseToken(text: string): { version: number; after: string } {
  try {
    const token = JSON.parse(Buffer.from(text, 'base64url').toString()) as Token;
    return { version: token.rv, after: token.start.replace(/^\//, '').replace(/\0$/, '') };
  } catch {
    throw new Refusal(badRequest("invalid continue token: continue key is not valid: invalid "
      + "character 'i' looking for beginning of value"));
  }
}

/** True if the state at a version can still be given. */
function isReachable({ store, collection }: Reading, version: number): boolean {
  if (version < collection.stateFloor) return false;
  return store.serverVersion !== '1.20' || version >= store.compacted;
}

interface ListPlan {
  version: number;
  after: string;
  limit: number;
}

function planList(reading: Reading): ListPlan {
  const { store, query, settings } = reading;
  const limit = Number(query.get('limit') ?? '0') || Infinity;
  const token = query.get('continue') ?? '';
  if (token !== '') {
    const { version, after } = parseToken(token);
    if (version < 0) return { version: store.version, after, limit };
    if (!isReachable(reading, version)) {
      throw new Refusal(tooOldContinue(Buffer.from(JSON.stringify({
        v: 'meta.k8s.io/v1', rv: -1, start: `${after}\0`,
      })).toString('base64url')));
    }
    return { version, after, limit };
  }
  const asked = versionOf(query);
  // From the cache, which knows no pages.
  if (query.get('resourceVersion') === '0') {
    return { version: store.version, after: '', limit: Infinity };
  }
  if (asked > store.version) {
    throw new Refusal(tooLarge(asked, store.version), FUTURE_WAIT_S * settings.secondMs);
  }
  if (query.get('resourceVersionMatch') === 'Exact') {
    if (!isReachable(reading, asked)) throw new Refusal(tooOldList());
    return { version: asked, after: '', limit };
  }
  return { version: store.version, after: '', limit };
}

/** The keys of one page, in order, and how many more there are. */
function pageOf({ collection, namespace, query }: Reading, plan: ListPlan)
  : { keys: string[]; rest: number; hasSelector: boolean } {
  const matches = matcherOf(query, namespace, collection.type.plural);
  const { keys, get } = collection.at(plan.version);
  const page: string[] = [];
  let rest = 0;
  for (const key of keys) {
    if (key <= plan.after && plan.after !== '') continue;
    const isFull = page.length >= plan.limit;
    const fits = matches === null || matches(get(key) as KubeObject);
    if (!fits) continue;
    if (!isFull) page.push(key);
    else rest += 1;
    // With a selector the rest is not counted: one more is enough to know.
    if (matches !== null && rest > 0) break;
  }
  return { keys: page, rest, hasSelector: matches !== null };
}

/** The pieces of a list's body, made as they are written. */
function* listPieces(reading: Reading, shape: Shape, plan: ListPlan): Generator<string> {
  const { store, collection } = reading;
  const { keys, rest, hasSelector } = pageOf(reading, plan);
  const metadata: Fields = {
    ...(collection.type.isCustom ? { continue: '' } : {}), resourceVersion: String(plan.version),
  };
  if (rest > 0) metadata['continue'] = continueToken(store, plan.version, keys.at(-1) ?? '');
  if (rest > 0 && !hasSelector) metadata['remainingItemCount'] = rest;
  const { kind, apiVersion } = shape.list();
  // A custom resource's fields come sorted, so that the items stand before the metadata.
  const [head, tail] = collection.type.isCustom
    ? [{ apiVersion }, { kind, metadata }] : [{ kind, apiVersion, metadata }, {}];
  let piece = `${JSON.stringify(head).slice(0, -1)},"items":[`;
  let isFirst = true;
  let version = -1;
  let get = (_key: string): KubeObject | null => null;
  for (const key of keys) {
    // What has changed while the body waited is not seen by it.
    if (version !== store.version) get = collection.at(plan.version).get;
    version = store.version;
    if (!isFirst) piece += ',';
    isFirst = false;
    const made = shape.isPlain ? collection.text(key) : null;
    piece += made ?? JSON.stringify(shape.item(get(key) as KubeObject));
    if (piece.length > PIECE_BYTES) {
      yield piece;
      piece = '';
    }
  }
  yield `${piece}]${JSON.stringify(tail).replace(/^\{(?=")/, ',').replace(/^\{\}$/, '}')}\n`;
}

export async function sendList(request: IncomingMessage, response: ServerResponse,
  reading: Reading): Promise<void> {
  checkOptions(reading, false);
  const { fault, settings } = reading;
  const pieces = listPieces(reading, shapeOf(request, reading), planList(reading));
  let head = '';
  let next = pieces.next();
  while (next.done !== true && head.length <= settings.gzipBytes) {
    head += next.value;
    next = pieces.next();
  }
  response.setHeader('content-type', 'application/json');
  if (next.done === true && head.length <= settings.plainBytes && fault === null) {
    response.setHeader('content-length', Buffer.byteLength(head));
    response.end(head);
    return;
  }
  const rest = next.done === true ? '' : next.value;
  await sendPieces(request, response, head, [rest, pieces], reading);
}

/** Writes a body that is larger than what has a content-length, at the pace of the reader. */
async function sendPieces(request: IncomingMessage, response: ServerResponse, head: string,
  [second, rest]: [string, Iterator<string>], { fault, settings }: Reading): Promise<void> {
  const isZipped = head.length > settings.gzipBytes && fault === null
    && /\bgzip\b/.test(String(request.headers['accept-encoding'] ?? ''));
  const body = new Body(response, fault);
  const zip = isZipped ? createGzip({ level: 1 }) : null;
  if (zip !== null) response.setHeader('content-encoding', 'gzip');
  zip?.pipe(response);
  const write = (piece: string): boolean => (zip === null ? body.text(piece) : zip.write(piece));
  write(head);
  for (let piece: string | undefined = second; piece !== undefined && !body.isOver;) {
    if (!write(piece)) await drained(zip ?? response, response);
    const next = rest.next();
    piece = next.done === true ? undefined : next.value;
  }
  if (zip === null) body.end();
  else zip.end();
}

function drained(stream: NodeJS.WritableStream, response: ServerResponse): Promise<void> {
  if (response.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      stream.off('drain', done);
      response.off('close', done);
      resolve();
    };
    stream.once('drain', done);
    response.once('close', done);
  });
}

/** How an event looks to a watch with selectors: leaving them is a deletion with the last state
 * that fitted, entering them an addition. Null if the watch is not told. */
export function seenBy(change: Change, matches: Matcher | null)
  : { type: Change['type']; object: KubeObject } | null {
  if (matches === null) return change;
  const isIn = change.type !== 'DELETED' && matches(change.object);
  const wasIn = change.previous !== null && matches(change.previous);
  if (isIn) return { type: wasIn ? 'MODIFIED' : 'ADDED', object: change.object };
  if (!wasIn || change.previous === null) return null;
  const { previous, object } = change;
  if (change.type === 'DELETED') return { type: 'DELETED', object };
  return {
    type: 'DELETED',
    object: {
      ...previous,
      metadata: { ...previous.metadata, resourceVersion: String(change.version) },
    },
  };
}

/** One watch, from its answer's head to its end. */
export class Watch {
  readonly collection: Collection;
  readonly #store: Store;
  readonly #reading: Reading;
  readonly #shape: Shape;
  readonly #matches: Matcher | null;
  readonly #response: ServerResponse;
  readonly #body: Body;
  readonly #timers: NodeJS.Timeout[] = [];
  readonly #onEnd: () => void;
  /** A muted watch says nothing more, and its connection stays. */
  isMuted = false;
  #told = 0;
  #isSilent = false;
  /** Changes that came while the state is being sent; null otherwise. */
  #waiting: Change[] | null = null;

  constructor(request: IncomingMessage, response: ServerResponse, reading: Reading,
    onEnd: () => void) {
    checkOptions(reading, true);
    const { collection, query, namespace, fault } = reading;
    this.#reading = reading;
    this.#store = reading.store;
    this.collection = collection;
    this.#shape = shapeOf(request, reading);
    this.#matches = matcherOf(query, namespace, collection.type.plural);
    const version = versionOf(query);
    this.#onEnd = onEnd;
    this.#response = response;
    response.setHeader('content-type', 'application/json');
    response.setHeader('transfer-encoding', 'chunked');
    response.flushHeaders();
    this.#body = new Body(response, fault,
      (code) => errorLine(code === 410 ? tooOld(version, collection.floor)
        : failure(code, 'InternalError', `a fault of ${code}`)));
    response.on('close', () => this.#close());
    this.#begin(version);
  }

  get #hasBookmarks(): boolean {
    return /^(true|1)$/.test(this.#reading.query.get('allowWatchBookmarks') ?? '');
  }

  #begin(version: number): void {
    const { query } = this.#reading;
    const { serverVersion } = this.#store;
    const isWatchList = serverVersion !== '1.20' && query.get('sendInitialEvents') === 'true';
    const seconds = Number(query.get('timeoutSeconds') ?? '0');
    if (isWatchList || version === 0) {
      if (serverVersion === '1.36-etcd3.4') {
        if (this.#hasBookmarks) this.error(noProgress());
        else this.#later(tooLarge(this.#store.version, 0));
        return;
      }
      if (version > this.#store.version) {
        this.#later(tooLarge(version, this.#store.version));
        return;
      }
      void this.#sendAll(serverVersion !== '1.20' && this.#hasBookmarks);
    } else if (version < this.collection.floor) {
      this.error(tooOld(version, this.collection.floor));
      return;
    } else if (version > this.#store.version) {
      // Silent to its end: a version from the future is waited for and says nothing.
      this.#isSilent = true;
    } else {
      for (const change of this.collection.since(version)) this.#tell(change);
    }
    this.collection.listeners.add(this.#listen);
    this.collection.closers.add(this.#drop);
    this.#schedule(seconds);
  }

  /** Sends the state as additions, at the pace of the reader. Changes wait until it is told. */
  async #sendAll(hasEnd: boolean): Promise<void> {
    const { collection } = this;
    const { version } = this.#store;
    const waiting: Change[] = [];
    this.#waiting = waiting;
    const keys = [...collection.keys];
    let seen = -1;
    let get = (_key: string): KubeObject | null => null;
    for (const key of keys) {
      if (this.#body.isOver) return;
      if (seen !== this.#store.version) get = collection.at(version).get;
      seen = this.#store.version;
      const line = this.#addition(key, get);
      if (line !== null && !this.#body.event(line)) await drained(this.#response, this.#response);
    }
    this.#waiting = null;
    if (hasEnd) this.#body.event(this.#shape.bookmark(version, true, false));
    for (const change of waiting) this.#listen(change);
  }

  #addition(key: string, get: (key: string) => KubeObject | null): string | null {
    const { type } = this.collection;
    const made = this.#shape.isPlain && this.#matches === null ? this.collection.text(key) : null;
    if (made !== null) {
      return `{"type":"ADDED","object":{"kind":"${type.kind}",`
        + `"apiVersion":"${apiVersionOf(type)}",${made.slice(1)}}\n`;
    }
    const object = get(key);
    if (object === null || (this.#matches !== null && !this.#matches(object))) return null;
    return this.#line('ADDED', object);
  }

  readonly #listen = (change: Change): void => {
    if (this.#isSilent || this.isMuted) return;
    if (this.#waiting !== null) {
      this.#waiting.push(change);
      return;
    }
    if (this.#tell(change)) this.#told += 1;
  };

  #tell(change: Change): boolean {
    const seen = seenBy(change, this.#matches);
    if (seen !== null) this.#event(seen.type, seen.object);
    return seen !== null;
  }

  #event(type: string, object: KubeObject): void {
    this.#body.event(this.#line(type, object));
  }

  #line(type: string, object: KubeObject): string {
    return `{"type":"${type}","object":${JSON.stringify(this.#shape.event(object))}}\n`;
  }

  #schedule(seconds: number): void {
    const { secondMs } = this.#reading.settings;
    if (this.#hasBookmarks) {
      const everyMs = BOOKMARK_S[this.#store.serverVersion] * secondMs;
      this.#timers.push(setInterval(() => this.bookmark(), everyMs));
    }
    if (seconds <= 0) return;
    this.#timers.push(setTimeout(() => this.end(), seconds * secondMs));
    if (!this.#hasBookmarks) return;
    // Only a watch that was told of something new gets a last bookmark.
    const last = (): void => { if (this.#told > 0) this.bookmark(); };
    for (const lead of BOOKMARKS_BEFORE_END_S[this.#store.serverVersion]) {
      if (lead < seconds) this.#timers.push(setTimeout(last, (seconds - lead) * secondMs));
    }
  }

  /** Sends a bookmark of the newest version: of the type on 1.20, of the whole store on 1.36. */
  bookmark(): void {
    if (this.#isSilent || this.isMuted || this.#waiting !== null) return;
    const isOld = this.#store.serverVersion === '1.20';
    const version = isOld ? this.collection.newest : this.#store.version;
    this.#body.event(this.#shape.bookmark(version, false, isOld));
  }

  #later(status: Status): void {
    const waitMs = FUTURE_WAIT_S * this.#reading.settings.secondMs;
    this.#timers.push(setTimeout(() => this.error(status), waitMs));
  }

  /** Sends an ERROR event and ends. */
  error(status: Status): void {
    this.#body.event(errorLine(status));
    this.end();
  }

  /** Ends the body as a server does at the time-out. */
  end(): void {
    this.#close();
    if (!this.isMuted) this.#body.end();
  }

  cut(): void {
    this.#close();
    this.#response.destroy();
  }

  readonly #drop = (): void => { this.end(); };

  #close(): void {
    this.collection.listeners.delete(this.#listen);
    this.collection.closers.delete(this.#drop);
    for (const timer of this.#timers) clearTimeout(timer);
    this.#onEnd();
  }
}

function errorLine(status: Status): string {
  return `${JSON.stringify({ type: 'ERROR', object: status })}\n`;
}
