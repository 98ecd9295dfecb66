// Holds the test API server against a recording: the objects and changes that the recording shows
// are put into a store under their recorded versions, every recorded request is sent at its time,
// and each answer is compared with the recorded one: status, headers, kinds, fields, versions, the
// order of all, how the stream ended. Uids, tokens and times come with the objects, so nothing is
// waved through but what `normal()` names.

import { gunzipSync } from 'node:zlib';
import { Agent, request } from 'node:https';
import { bodyOf, eventsOf, isWatch, readRecording, resourceOf, type Exchange, type Recording,
  type WatchEvent } from './recording.ts';
import { keyOf, type KubeObject, type Metadata, type ServerVersion } from './resources.ts';
import { ADMIN_TOKEN, ENGINE_TOKEN, TestApiServer } from './server.ts';

export interface CalibrateOptions {
  version: ServerVersion;
  /** How long a recorded second lasts. */
  secondMs?: number;
  /** Called at the time of the note that begins with the text, or before the request that is
   * named by its number in brackets. */
  hooks?: Record<string, (server: TestApiServer, play: Player) => Promise<void> | void>;
  /** Recorded exchanges that are not compared, each with the reason. */
  except?: Record<number, string>;
  /** Called before the first request. */
  before?: (server: TestApiServer) => void;
  /** Another recording whose lists give the objects of the beginning. */
  objectsFrom?: string;
}

interface Answer {
  status: number;
  headers: Record<string, string | undefined>;
  body: Buffer;
  end: 'complete' | 'cut' | 'refused' | 'closed by the client';
}

interface RecordedChange {
  version: number;
  atMs: number;
  resource: string;
  event: WatchEvent;
}

const LINE_FEED = 0x0a;
/** Versions above are from the future. */
const FUTURE = 100_000_000;
const TOKENS: Record<string, string> = {
  admin: ADMIN_TOKEN, engine: ENGINE_TOKEN, bad: 'no-such-token',
};
/** Recorded seconds that may pass beyond the last answer before it counts as missing. */
const PATIENCE_S = 20;

/** Sends one recorded request. */
function ask(server: TestApiServer, exchange: Exchange, agent: Agent, closeAfterMs: number)
  : { begun: Promise<void>; ended: Promise<Answer> } {
  let begin = (): void => {};
  const begun = new Promise<void>((resolve) => { begin = resolve; });
  const ended = new Promise<Answer>((resolve) => {
    const token = TOKENS[exchange.auth];
    const headers = {
      ...exchange.accept, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    };
    const chunks: Buffer[] = [];
    let status = 0;
    let answerHeaders: Answer['headers'] = {};
    let end: Answer['end'] = 'refused';
    const outgoing = request(`${server.url}${exchange.path}`,
      { method: exchange.method, ca: server.ca, agent, headers }, (incoming) => {
        begin();
        status = incoming.statusCode ?? 0;
        answerHeaders = incoming.headers as Answer['headers'];
        end = 'cut';
        incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
        incoming.on('end', () => { if (incoming.complete) end = 'complete'; });
        incoming.on('error', () => {});
      });
    outgoing.on('error', () => {});
    let timer: NodeJS.Timeout | null = null;
    if (exchange.end.closedBy === 'client') {
      timer = setTimeout(() => {
        outgoing.destroy();
        end = 'closed by the client';
      }, closeAfterMs);
    }
    outgoing.on('close', () => {
      if (timer !== null) clearTimeout(timer);
      begin();
      resolve({ status, headers: answerHeaders, body: Buffer.concat(chunks), end });
    });
    outgoing.end();
  });
  return { begun, ended };
}

function textOf(body: Buffer, headers: Record<string, string | undefined>): string {
  return (headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString();
}

/** Plays one recording against one server. */
export class Player {
  readonly server: TestApiServer;
  readonly recording: Recording;
  readonly faults: string[] = [];
  #compared = 0;
  readonly #options: CalibrateOptions;
  /** Changes by version, each once, that unfiltered watches of whole objects saw. */
  readonly #changes: RecordedChange[];

  constructor(name: string, options: CalibrateOptions) {
    const { version, secondMs = 200 } = options;
    this.#options = options;
    this.server = new TestApiServer({ version, secondMs });
    this.recording = readRecording(name);
    this.#changes = this.#findChanges();
  }

  get compared(): number {
    return this.#compared;
  }

  #findChanges(): RecordedChange[] {
    const found = new Map<number, RecordedChange>();
    for (const exchange of this.recording.exchanges) {
      const isWhole = isWatch(exchange) && exchange.response?.status === 200
        && !/Selector=/.test(exchange.path) && !/Partial/.test(exchange.accept['accept'] ?? '');
      if (!isWhole) continue;
      let isInitial = !/resourceVersion=[1-9]/.test(exchange.path)
        || /sendInitialEvents=true/.test(exchange.path);
      for (const { event, atMs } of timedEvents(exchange)) {
        if (event.type === 'BOOKMARK') isInitial = false;
        if (isInitial || !['ADDED', 'MODIFIED', 'DELETED'].includes(event.type)) continue;
        const version = Number(event.object.metadata.resourceVersion);
        const known = found.get(version);
        if (known !== undefined && known.atMs <= atMs) continue;
        found.set(version, { version, atMs, resource: resourceOf(exchange.path), event });
      }
    }
    return [...found.values()].sort((a, b) => a.version - b.version);
  }

  /** Brings the store to a version: what the recording shows up to there. */
  apply(upTo: number): void {
    const { store } = this.server;
    while (this.#changes.length > 0 && (this.#changes[0]?.version ?? 0) <= upTo) {
      const change = this.#changes.shift();
      if (change === undefined) break;
      store.counter.version = change.version - 1;
      const collection = store.collection(change.resource);
      if (change.event.type === 'DELETED') {
        // The last state is the event's own, which the deletion gives the new version.
        const { object } = change.event;
        collection.remove(keyOf(object));
      } else {
        collection.put(structuredClone(change.event.object));
      }
    }
    if (Number.isFinite(upTo)) store.counter.version = Math.max(store.version, upTo);
  }

  /** Forgets recorded changes up to a version: the server is going to make them itself. */
  skip(upTo: number): void {
    while (this.#changes.length > 0 && (this.#changes[0]?.version ?? 0) <= upTo) {
      this.#changes.shift();
    }
  }

  /** Brings the store to what a recorded list shows, where no watch saw the changes. */
  become(id: number): void {
    const exchange = this.recording.exchanges.find((one) => one.id === id);
    const objects = exchange === undefined ? null : initialObjects(exchange);
    if (exchange === undefined || objects === null) throw new Error(`exchange ${id} is no list`);
    const { store } = this.server;
    const collection = store.collection(resourceOf(exchange.path));
    const kept = new Set(objects.map(keyOf));
    for (const key of collection.keys.filter((name) => !kept.has(name))) collection.remove(key);
    for (const object of objects) {
      const { resourceVersion } = object.metadata;
      if (collection.get(keyOf(object))?.metadata.resourceVersion === resourceVersion) continue;
      store.counter.version = Number(resourceVersion) - 1;
      collection.put(object);
    }
    store.counter.version = listVersion(exchange);
  }

  /** Objects that the first list of each resource shows, or the initial events of a watch. */
  #load(recording: Recording): void {
    const { store } = this.server;
    const done = new Set<string>();
    for (const exchange of recording.exchanges) {
      const resource = resourceOf(exchange.path);
      const isRead = exchange.response?.status === 200
        && !/Partial/.test(exchange.accept['accept'] ?? '')
        && /\/(api|apis)\//.test(exchange.path);
      if (!isRead || (done.has(resource) && !/continue=/.test(exchange.path))) continue;
      const objects = initialObjects(exchange);
      if (objects === null) continue;
      done.add(resource);
      if (!store.types().some(({ plural }) => plural === resource)) continue;
      for (const object of objects) {
        const version = Number(object.metadata.resourceVersion);
        store.counter.version = version - 1;
        store.collection(resource).put(object);
      }
    }
    store.restart('newest');
  }

  async run(): Promise<void> {
    const { hooks = {}, before, objectsFrom, secondMs = 200 } = this.#options;
    if (objectsFrom !== undefined) this.#load(readRecording(objectsFrom));
    this.#load(this.recording);
    const started = this.recording.exchanges.map(startVersion).find((version) => version > 0) ?? 0;
    this.server.store.counter.version = Math.max(this.server.store.version, started);
    before?.(this.server);
    await this.server.start();
    const agent = new Agent({ keepAlive: false });
    const waiting: Promise<void>[] = [];
    const steps = this.#steps(hooks, agent, waiting, secondMs / 1000);
    const startMs = performance.now();
    for (const { atMs, run } of steps) {
      const waitMs = startMs + (atMs * secondMs) / 1000 - performance.now();
      if (waitMs > 0) await new Promise((resolve) => { setTimeout(resolve, waitMs); });
      await run();
    }
    const late = new Promise<void>((resolve) => {
      setTimeout(resolve, PATIENCE_S * secondMs).unref();
    });
    await Promise.race([Promise.all(waiting), late.then(() => { this.faults.push('no end'); })]);
    await this.server.close();
  }

  #steps(hooks: NonNullable<CalibrateOptions['hooks']>, agent: Agent, waiting: Promise<void>[],
    scale: number): { atMs: number; run: () => Promise<void> | void | undefined }[] {
    const steps: { atMs: number; run: () => Promise<void> | void | undefined }[] = [];
    const ends = new Map<number, Promise<void>>();
    for (const { atMs, version } of this.#changes) {
      steps.push({ atMs, run: () => this.apply(version) });
    }
    for (const { atMs, text } of this.recording.notes) {
      const name = Object.keys(hooks).find((start) => text.startsWith(start));
      const hook = name === undefined ? undefined : hooks[name];
      if (hook !== undefined) steps.push({ atMs, run: () => hook(this.server, this) });
    }
    for (const exchange of this.recording.exchanges) {
      steps.push({
        atMs: exchange.atMs,
        run: async () => {
          await hooks[`[${exchange.id}]`]?.(this.server, this);
          const version = startVersion(exchange);
          if (version < FUTURE) this.apply(version);
          const closeMs = (exchange.end.atMs - exchange.atMs) * scale;
          const answer = ask(this.server, exchange, agent, closeMs);
          // What follows an answer's head, or its end, follows it here too, however long it takes.
          await answer.begun;
          const compared = answer.ended.then((got) => this.#compare(exchange, got));
          waiting.push(compared);
          ends.set(exchange.id, compared);
        },
      });
      if (Number.isFinite(exchange.end.atMs)) {
        steps.push({ atMs: exchange.end.atMs, run: () => ends.get(exchange.id) });
      }
    }
    return steps.map((step, i) => ({ step, i }))
      .sort((a, b) => a.step.atMs - b.step.atMs || a.i - b.i).map(({ step }) => step);
  }

  #compare(exchange: Exchange, got: Answer): void {
    if (this.#options.except?.[exchange.id] !== undefined) return;
    this.#compared += 1;
    const wanted = recorded(exchange);
    const a = describe(exchange, wanted, wanted);
    const b = describe(exchange, got, wanted);
    for (const [i, line] of a.entries()) {
      if (line === b[i]) continue;
      this.faults.push(`[${exchange.id}] ${exchange.path}\n  recorded ${shorten(line)}\n`
        + `  got      ${shorten(b[i] ?? 'nothing')}`);
      return;
    }
    if (b.length > a.length) {
      this.faults.push(`[${exchange.id}] ${exchange.path}\n  more than recorded: `
        + shorten(b[a.length] ?? ''));
    }
  }
}

/** Events with the time at which their line was whole. */
function timedEvents(exchange: Exchange): { event: WatchEvent; atMs: number }[] {
  const timed: { event: WatchEvent; atMs: number }[] = [];
  let rest = Buffer.alloc(0);
  for (const { atMs, bytes } of exchange.chunks) {
    rest = Buffer.concat([rest, bytes]);
    const end = rest.lastIndexOf(LINE_FEED) + 1;
    for (const event of eventsOf(rest.subarray(0, end))) timed.push({ event, atMs });
    rest = rest.subarray(end);
  }
  return timed;
}

function shorten(text: string): string {
  return text.length > 600 ? `${text.slice(0, 600)}...` : text;
}

function startVersion(exchange: Exchange): number {
  return Number(/[?&]resourceVersion=([1-9]\d*)/.exec(exchange.path)?.[1]
    ?? listVersion(exchange));
}

/** A recorded list; null for what is no list. */
function listOf(exchange: Exchange): { metadata: Metadata; items: KubeObject[] } | null {
  if (isWatch(exchange) || exchange.response?.status !== 200) return null;
  const text = textOf(bodyOf(exchange), exchange.response.headers);
  if (!text.startsWith('{')) return null;
  const list = JSON.parse(text) as { kind?: string; metadata: Metadata; items?: KubeObject[] };
  return list.items === undefined ? null : { metadata: list.metadata, items: list.items };
}

/** The version that a recorded list was of; 0 for what is no list. */
function listVersion(exchange: Exchange): number {
  return Number(listOf(exchange)?.metadata.resourceVersion ?? '0');
}

function initialObjects(exchange: Exchange): KubeObject[] | null {
  if (!isWatch(exchange)) return listOf(exchange)?.items ?? null;
  if (/[?&]resourceVersion=[1-9]/.test(exchange.path)) return null;
  return eventsOf(bodyOf(exchange)).filter(({ type }) => type === 'ADDED')
    .map(({ object }) => object);
}

function recorded(exchange: Exchange): Answer {
  const { response, end } = exchange;
  let how: Answer['end'] = end.complete ? 'complete' : 'cut';
  if (end.error === 'ECONNREFUSED') how = 'refused';
  if (end.closedBy === 'client') how = 'closed by the client';
  return {
    status: response?.status ?? 0, headers: response?.headers ?? {}, body: bodyOf(exchange),
    end: how,
  };
}

/** An answer as lines that must be equal. */
function describe(exchange: Exchange, answer: Answer, wanted: Answer): string[] {
  const { status, headers, end } = answer;
  const names = ['content-type', 'content-encoding', 'retry-after'];
  const lines = [`status ${status}, ${end}`,
    ...names.map((name) => `${name}: ${headers[name] ?? ''}`)];
  if (wanted.body.length > 4096 || isWatch(exchange)) {
    lines.push(`transfer-encoding: ${headers['transfer-encoding'] ?? ''}`);
  }
  const text = textOf(answer.body, headers);
  if (status === 200 && isWatch(exchange)) {
    const events = eventsOf(text);
    const whole = text.split('\n').filter((line) => !/^\{"type":"(BOOKMARK|ERROR)"/.test(line));
    return [...lines, ...withoutRepeats(events.map((event) => normal(event))), ...whole];
  }
  if (!text.startsWith('{')) return [...lines, text];
  const body = JSON.parse(text) as { items?: KubeObject[] };
  if (body.items === undefined) return [...lines, normal(body)];
  const { items, ...head } = body;
  // The cache of 1.20 has no order.
  const sorted = [...items].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
  const isOrdered = !/resourceVersion=0/.test(exchange.path);
  return [...lines, normal(head), ...sorted.map((item) => normal(item)),
    ...(isOrdered ? [text] : [])];
}

/** Bookmarks before the end come once or twice; once is enough. */
function withoutRepeats(lines: string[]): string[] {
  return lines.filter((line, i) => line !== lines[i - 1] || !line.includes('"BOOKMARK"'));
}

/** JSON with sorted keys. The version of a bookmark depends on what else a server writes. */
function normal(value: unknown): string {
  const isBookmark = (value as WatchEvent).type === 'BOOKMARK';
  return JSON.stringify(value, (key, part: unknown) => {
    if (isBookmark && key === 'resourceVersion') return '#';
    // How far the cache of the moment had come.
    if (key === 'message') return String(part).replace(/current: \d+/, 'current: #');
    if (typeof part !== 'object' || part === null || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
