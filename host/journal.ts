// What the sidecar said, kept in a file, so that a daemon that starts again knows the cluster and
// its policy before the sidecar has found it: what was known stays in force. This one is for the
// next daemon of the same boot, and holds every change; last-state.ts keeps the same for the next
// boot.
//
// The file is a row of frames (engine/frame.ts), each with its length and checksum: a snapshot in
// pieces, its commit, then deltas as they were applied. A snapshot replaces the file by a rename; a
// delta is appended. A file that has become long is written anew without what later deltas say
// again, or, where that is not enough, asks for a snapshot. A process that is killed while it
// appends leaves a last frame that is not whole, which is not read: the sidecar will say it again,
// as it sends a snapshot to every daemon.

import { appendFileSync, closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { encodeFrame, FrameError, FrameReader } from '../engine/frame.ts';
import {
  DeltaSchema, RevisionSchema, SnapshotPartSchema,
  type Delta, type PolicyChange, type Snapshot, type SnapshotPart,
} from '../engine/model.ts';
import { parseShape } from '../engine/shape.ts';
import { diskFiles, removeFile, replaceFile, type Files } from './durable.ts';
import { LastWords, type Subject } from './last-words.ts';
import { JOURNAL_BYTES_LIMIT, JOURNAL_SNAPSHOTS } from './limits.ts';

const JOURNAL = 'cluster';
/** The file is written anew where less than this of it is needed. */
const NEEDED_SHARE = 0.75;
/** Items of one kind that are tried in one frame; half as many each time it is too large. */
const PIECE_ITEMS = 200;

const EntrySchema = v.variant('kind', [
  v.strictObject({
    kind: v.literal('begin'), local: v.string(), revision: RevisionSchema, hasPolicy: v.boolean(),
  }),
  v.strictObject({ kind: v.literal('part'), part: SnapshotPartSchema }),
  v.strictObject({ kind: v.literal('commit') }),
  v.strictObject({ kind: v.literal('delta'), delta: DeltaSchema }),
]);
type Entry = v.InferOutput<typeof EntrySchema>;

const NO_POLICY: PolicyChange = {
  identities: [], ruleSets: [], removedRuleSets: [], endpoints: [], removedEndpoints: [],
  rules: [], removedRules: [],
};

/** The last known state: a snapshot and what changed since. */
export interface Recalled {
  snapshot: Snapshot;
  deltas: Delta[];
  /** What was left out, and why; null where that is nothing. */
  fault: string | null;
}

/** A change as it is written, and what it is about. */
export interface ChangeFrame {
  bytes: Uint8Array;
  subject: Subject;
}

interface Change {
  size: number;
  subject: Subject;
}

/** A file that is there and cannot be used. */
export class JournalError extends Error {
  override name = 'JournalError';
}

export class Journal {
  readonly #files: Files;
  readonly #path: string;
  #fd = -1;
  /** Bytes of the snapshot, and of the changes behind it. */
  #snapshotBytes = 0;
  #bytes = 0;
  /** Where each change is that is needed, counted from the snapshot's end. */
  #changes = new LastWords<{ at: number; change: Change }>();
  /** True once the file has a snapshot of ours, which a change may follow. */
  #isBegun = false;

  /** `folder` is made where it is missing. */
  constructor(folder: string) {
    this.#files = diskFiles(folder);
    this.#path = join(folder, JOURNAL);
  }

  /** True once so much was appended that a snapshot should take its place. */
  get isLong(): boolean {
    return this.#bytes > this.#limit;
  }

  get #limit(): number {
    return Math.max(JOURNAL_BYTES_LIMIT, this.#snapshotBytes * JOURNAL_SNAPSHOTS);
  }

  /** Reads what an earlier daemon was told about node `local`; null where that is nothing. Throws
   * JournalError where there is a file and no whole snapshot in it. */
  recall(local: string): Recalled | null {
    if (!this.#files.list().includes(JOURNAL)) return null;
    return readRecalled(readFileSync(this.#path), local);
  }

  /** Makes this snapshot all there is. */
  replace(frames: readonly Uint8Array[]): void {
    const snapshot = Buffer.concat(frames);
    this.close();
    replaceFile(this.#files, JOURNAL, snapshot);
    this.#snapshotBytes = snapshot.length;
    this.#begin();
    this.#isBegun = true;
  }

  /** Adds a change that is in force. */
  append({ bytes, subject }: ChangeFrame): void {
    if (!this.#isBegun) return;
    if (this.#fd < 0) this.#fd = openSync(this.#path, 'a', 0o600);
    appendFileSync(this.#fd, bytes);
    this.#note({ size: bytes.length, subject });
    if (this.isLong && this.#changes.bytes < this.#limit * NEEDED_SHARE) this.#compact();
  }

  #begin(): void {
    this.#bytes = 0;
    this.#changes = new LastWords();
  }

  #note(change: Change): void {
    this.#changes.add({ at: this.#bytes, change }, change.size, change.subject);
    this.#bytes += change.size;
  }

  /** Writes the file anew, without what is not needed. */
  #compact(): void {
    const file = readFileSync(this.#path);
    const needed = this.#changes.values();
    const frames = needed.map(({ at, change: { size } }) =>
      file.subarray(this.#snapshotBytes + at, this.#snapshotBytes + at + size));
    this.close();
    const whole = Buffer.concat([file.subarray(0, this.#snapshotBytes), ...frames]);
    replaceFile(this.#files, JOURNAL, whole);
    this.#begin();
    for (const { change } of needed) this.#note(change);
  }

  /** Forgets everything. */
  clear(): void {
    this.#isBegun = false;
    this.close();
    removeFile(this.#files, JOURNAL);
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** A snapshot as the frames of a file. */
export function snapshotFrames(snapshot: Snapshot): Uint8Array[] {
  return [...snapshotEntries(snapshot)].flatMap((entry) => framesOf(entry));
}

/** A change as a frame that may follow them. */
export function deltaFrame(delta: Delta): ChangeFrame {
  const { nodes, removedNodes, pods, removedPods, policy, services = [], removedServices = [] }
    = delta;
  const others = [nodes, removedNodes, pods, removedPods];
  const subject = {
    services: [...services, ...removedServices].map(({ namespace, name }) =>
      `${namespace}/${name}`),
    isAlone: policy === undefined && others.every((list) => list.length === 0),
  };
  return { bytes: encodeFrame({ kind: 'delta', delta } satisfies Entry), subject };
}

/** What a file says about node `local`. Throws JournalError where it has no whole snapshot. What is
 * damaged or not whole behind one is left out, with all that follows; `fault` says so. */
export function readRecalled(bytes: Uint8Array, local: string): Recalled {
  const reader = new FrameReader();
  let values: unknown[];
  let fault: string | null = null;
  try {
    values = reader.push(bytes);
    if (reader.pending > 0) fault = 'its last change is not whole';
  } catch (error) {
    if (!(error instanceof FrameError)) throw error;
    values = error.before;
    fault = error.message;
  }
  const entries = values.map((value, index) => parseShape(EntrySchema, value, `entry ${index}`));
  const recalled = { ...assemble(entries, fault), fault };
  if (recalled.snapshot.local === local) return recalled;
  throw new JournalError(`it is of node ${recalled.snapshot.local}`);
}

function assemble(entries: Entry[], fault: string | null): Omit<Recalled, 'fault'> {
  const [begin, ...rest] = entries;
  const end = rest.findIndex(({ kind }) => kind === 'commit');
  if (begin?.kind !== 'begin' || end < 0) {
    throw new JournalError(fault ?? 'it has no whole snapshot');
  }
  const { revision, local, hasPolicy } = begin;
  const policy = hasPolicy ? structuredClone(NO_POLICY) : undefined;
  const snapshot: Snapshot = { revision, local, nodes: [], pods: [] };
  for (const entry of rest.slice(0, end)) {
    if (entry.kind !== 'part') throw new JournalError(`${entry.kind} within a snapshot`);
    addPart(snapshot, policy, entry.part);
  }
  const deltas = rest.slice(end + 1)
    .flatMap((entry) => (entry.kind === 'delta' ? entry.delta : []));
  return { snapshot: policy === undefined ? snapshot : { ...snapshot, policy }, deltas };
}

function addPart(
  snapshot: Snapshot, policy: PolicyChange | undefined, part: SnapshotPart,
): void {
  const { nodes, pods, policy: more, services } = part;
  for (const node of nodes ?? []) snapshot.nodes.push(node);
  for (const pod of pods ?? []) snapshot.pods.push(pod);
  if (services !== undefined) snapshot.services = [...snapshot.services ?? [], ...services];
  if (policy === undefined || more === undefined) return;
  for (const [kind, items] of Object.entries(more) as [keyof PolicyChange, unknown[]][]) {
    const list = policy[kind] as unknown[];
    for (const item of items) list.push(item);
  }
}

function* snapshotEntries(snapshot: Snapshot): Generator<Entry> {
  const { local, revision, nodes, pods, policy, services } = snapshot;
  yield { kind: 'begin', local, revision, hasPolicy: policy !== undefined };
  for (const some of pieces(nodes)) yield { kind: 'part', part: { nodes: some } };
  for (const some of pieces(pods)) yield { kind: 'part', part: { pods: some } };
  for (const some of pieces(services ?? [])) yield { kind: 'part', part: { services: some } };
  // That there are none is known, too.
  if (services?.length === 0) yield { kind: 'part', part: { services } };
  const lists = Object.entries(policy ?? {}) as [keyof PolicyChange, unknown[]][];
  for (const [kind, items] of lists) {
    for (const some of pieces(items)) {
      yield { kind: 'part', part: { policy: { ...NO_POLICY, [kind]: some } } };
    }
  }
  yield { kind: 'commit' };
}

function* pieces<T>(items: T[]): Generator<T[]> {
  for (let at = 0; at < items.length; at += PIECE_ITEMS) yield items.slice(at, at + PIECE_ITEMS);
}

/** An entry as one frame, or a part that is too large for one as several. */
function framesOf(entry: Entry): Uint8Array[] {
  try {
    return [encodeFrame(entry)];
  } catch (error) {
    const isTooLarge = error instanceof FrameError && error.fault === 'length';
    if (!isTooLarge || entry.kind !== 'part') throw error;
    return halves(entry.part).flatMap((part) => framesOf({ kind: 'part', part }));
  }
}

/** Splits the one list that a part has. */
function halves(part: SnapshotPart): SnapshotPart[] {
  const split = <T>(list: T[]): [T[], T[]] => {
    if (list.length < 2) throw new JournalError('an entry is larger than a frame');
    return [list.slice(0, list.length >>> 1), list.slice(list.length >>> 1)];
  };
  if (part.nodes !== undefined) return split(part.nodes).map((nodes) => ({ nodes }));
  if (part.pods !== undefined) return split(part.pods).map((pods) => ({ pods }));
  if (part.services !== undefined) return split(part.services).map((services) => ({ services }));
  const policy = part.policy ?? NO_POLICY;
  const [kind, items] = (Object.entries(policy) as [keyof PolicyChange, unknown[]][])
    .find(([, list]) => list.length > 0) ?? ['rules', []];
  return split(items).map((some) => ({ policy: { ...NO_POLICY, [kind]: some } }));
}
