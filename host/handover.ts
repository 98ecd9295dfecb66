// What one daemon leaves to the next: descriptors of devices and sockets, the flow table, and the
// record of each pod's device. docs/SURVIVAL.md tells what it is good for.
//
// Theory of operation. A keeper (the holder, or systemd's descriptor store) has a second descriptor
// of everything that must not end with the process. At its start a daemon takes from the keeper
// what it has a use for, by name, and drops the rest; from then on it tells the keeper of whatever
// it opens or closes, in that order: nothing is in use that is not kept. A keeper that ends is
// replaced, and told everything again. Without a keeper the daemon works as well, and says so.
//
// A daemon that takes over from one that still runs has its descriptors from that one
// (succession.ts). Until settle() the keeper is the other's to tell.

import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { encodeFrame, FrameReader } from '../engine/frame.ts';
import type { Log } from '../engine/log.ts';
import { EndpointSchema } from '../engine/model.ts';
import { parseShape } from '../engine/shape.ts';
import { closeFd } from '../ffi/file.ts';
import { diskFiles, removeFile, removeUnfinished, replaceFile, type Files } from './durable.ts';
import { HolderClient } from './holder-client.ts';
import { POD_PREFIX } from './holder-protocol.ts';
import type { SystemdStore } from './systemd-store.ts';

/** The holder's socket, in the runtime directory. */
export const HOLDER_SOCKET = 'holder.sock';
/** Folder of the records, in the runtime directory. */
export const KEPT_FOLDER = 'kept';
/** First wait before another holder is started, and the longest. */
const RESTART_FIRST_MS = 50;
const RESTART_LIMIT_MS = 5000;
const DIGEST_LENGTH = 24;

/** Whoever keeps descriptors for us. All of it is synchronous, and throws where it fails. */
export interface Keeper {
  readonly kind: 'holder' | 'systemd';
  put(name: string, fd: number): void;
  drop(name: string): void;
  /** Lets go of everything. */
  stop(): void;
  /** Goes on keeping everything. */
  close(): void;
}

/** A pod's device, as the next daemon needs it. */
const PodRecordSchema = v.strictObject({
  endpoint: EndpointSchema,
  /** The interface's name before it moved. */
  device: v.string(),
  /** The pod's side of a TAP. */
  mac: v.nullable(v.string()),
  /** True where the CNI plugin has asked for it. */
  isCni: v.boolean(),
  /** The device's index in the core. */
  index: v.pipe(v.number(), v.integer(), v.minValue(0)),
});
export type PodRecord = v.InferOutput<typeof PodRecordSchema>;

export interface HandoverOptions {
  runtimeDirectory: string;
  /** False: nothing is kept. */
  isEnabled: boolean;
  /** How long a holder waits for a daemon; 0: for ever while there are pods. */
  awayMs: number;
  log: Log;
  /** A keeper that is there already, in the place of a holder. */
  store: SystemdStore | null;
}

export class Handover {
  readonly #options: HandoverOptions;
  /** Null where nothing is kept. */
  readonly #files: Files | null;
  /** Descriptors of an earlier daemon that nobody has taken yet. */
  readonly #offered = new Map<string, number>();
  /** What is kept now, and our descriptor of it. */
  readonly #kept = new Map<string, number>();
  #keeper: Keeper | null = null;
  /** While another daemon tells the keeper: names that we shall have to tell it of. */
  #untold: Set<string> | null = null;
  #restartMs = RESTART_FIRST_MS;
  #restartTimer: NodeJS.Timeout | null = null;
  #isOver = false;

  private constructor(options: HandoverOptions) {
    this.#options = options;
    this.#files = options.isEnabled ? diskFiles(keptFolder(options)) : null;
    if (this.#files !== null) removeUnfinished(this.#files);
  }

  /** Finds a keeper that is there. */
  static async begin(options: HandoverOptions): Promise<Handover> {
    const handover = new Handover(options);
    if (!options.isEnabled) return handover;
    if (options.store !== null) {
      handover.#keeper = options.store;
      for (const [name, fd] of options.store.list()) handover.#offered.set(name, fd);
      return handover;
    }
    const found = HolderClient.find(holderPath(options));
    if (found !== null) await handover.#take(found);
    return handover;
  }

  /** Goes on with what another daemon has given, whose keeper stays as it is until settle(). */
  static succeed(options: HandoverOptions, given: ReadonlyMap<string, number>): Handover {
    const handover = new Handover(options);
    for (const [name, fd] of given) handover.#offered.set(name, fd);
    handover.#untold = new Set();
    options.store?.adopt(given.keys());
    return handover;
  }

  /** Starts a keeper where there is none. A failure is logged, and then there is none. */
  async ensure(): Promise<void> {
    if (this.#options.isEnabled && this.#keeper === null && this.#untold === null) {
      await this.#find();
    }
  }

  /** From now on the keeper is ours. */
  async settle(): Promise<void> {
    const untold = this.#untold;
    if (untold === null) return;
    this.#untold = null;
    this.#keeper = this.#options.store;
    await this.ensure();
    for (const name of untold) {
      const fd = this.#kept.get(name);
      this.#tell(name, (keeper) => (fd === undefined ? keeper.drop(name) : keeper.put(name, fd)));
    }
  }

  /** What is kept now, by name. */
  get kept(): ReadonlyMap<string, number> {
    return this.#kept;
  }

  /** Who keeps things for us: `holder`, `systemd`, or `none`. */
  get keeper(): Keeper['kind'] | 'none' {
    if (this.#untold !== null) return this.#options.store?.kind ?? 'holder';
    return this.#keeper?.kind ?? 'none';
  }

  /** Names that an earlier daemon has left and nobody has taken yet. */
  offered(prefix: string): string[] {
    return [...this.#offered.keys()].filter((name) => name.startsWith(prefix));
  }

  /** Takes what an earlier daemon has left under a name; -1 where that is nothing. It is kept, as
   * if keep() had been called. */
  take(name: string): number {
    const fd = this.#offered.get(name);
    if (fd === undefined) return -1;
    this.#offered.delete(name);
    this.#kept.set(name, fd);
    return fd;
  }

  /** Likewise for descriptors of which each worker has one: as many as there are workers, or none.
   * Those of a daemon with another number of workers are closed, for some of them would be read by
   * nobody. */
  takeAll(name: string, count: number): number[] {
    const left = this.offered(`${name}.`);
    const names = numbered(name, count);
    if (left.length === count && names.every((one) => left.includes(one))) {
      return names.map((one) => this.take(one));
    }
    if (left.length > 0) {
      this.#options.log.warn({ name, workers: count, left: left.length },
        'not taken over, started anew: it is of another number of workers');
      this.refuse(`${name}.`);
    }
    return [];
  }

  /** Closes what was left under names of this prefix, but for those in use. */
  refuse(prefix: string): void {
    for (const name of this.offered(prefix)) {
      const fd = this.#offered.get(name);
      this.#offered.delete(name);
      this.#tell(name, (keeper) => keeper.drop(name));
      if (fd !== undefined) closeFd(fd);
    }
  }

  /** Has a descriptor kept as long as forget() is not called. It stays the caller's to close. */
  keep(name: string, fd: number): void {
    if (!this.#options.isEnabled) return;
    this.#kept.set(name, fd);
    this.#tell(name, (keeper) => keeper.put(name, fd));
  }

  /** Has a descriptor let go; to be called before it is closed. */
  forget(name: string): void {
    if (!this.#kept.delete(name)) return;
    this.#tell(name, (keeper) => keeper.drop(name));
  }

  /** Likewise for descriptors of which each worker has one. */
  keepAll(name: string, fds: readonly number[]): void {
    numbered(name, fds.length).forEach((one, worker) => this.keep(one, fds[worker] ?? -1));
  }

  /** Has all descriptors under a name let go. */
  forgetAll(name: string): void {
    const names = [...this.#kept.keys()].filter((one) => one.startsWith(`${name}.`));
    for (const one of names) this.forget(one);
  }

  /** Records of the pods whose devices were left. Those that cannot be read are told. */
  pods(): { name: string; record: PodRecord }[] {
    const files = this.#files;
    if (files === null) return [];
    const found: { name: string; record: PodRecord }[] = [];
    for (const name of files.list().filter((file) => file.startsWith(POD_PREFIX))) {
      try {
        const [value] = new FrameReader().push(files.read(name));
        found.push({ name, record: parseShape(PodRecordSchema, value, name) });
      } catch (error) {
        const { message } = error as Error;
        this.#options.log.error({ name, error: message }, 'record of a pod is not used');
        removeFile(files, name);
      }
    }
    return found;
  }

  /** Writes a pod's record, for a device that is kept under the name. */
  writePod(name: string, record: PodRecord): void {
    if (this.#files !== null) replaceFile(this.#files, name, encodeFrame(record));
  }

  removePod(name: string): void {
    if (this.#files !== null) removeFile(this.#files, name);
  }

  /** Ends our part. Everything stays kept for the next daemon, or nothing does. */
  end(isKept: boolean): void {
    this.#isOver = true;
    if (this.#restartTimer !== null) clearTimeout(this.#restartTimer);
    for (const fd of this.#offered.values()) closeFd(fd);
    this.#offered.clear();
    if (!isKept) rmSync(keptFolder(this.#options), { recursive: true, force: true });
    const keeper = this.#keeper;
    this.#keeper = null;
    try {
      if (isKept) keeper?.close();
      else keeper?.stop();
    } catch (error) {
      this.#options.log.warn({ error: (error as Error).message }, 'the holder did not end');
    }
  }

  /** Takes what an earlier daemon has left with a keeper. */
  async #take(client: HolderClient): Promise<void> {
    try {
      await client.watch(this.#options.awayMs, () => this.#lost(client));
      for (const [name, fd] of client.list()) this.#offered.set(name, fd);
      this.#keeper = client;
    } catch (error) {
      const { message } = error as Error;
      this.#options.log.error({ error: message }, 'nothing is left by an earlier daemon');
      client.close();
    }
  }

  /** Finds or starts a keeper, and has it keep what is to be kept. */
  async #find(): Promise<void> {
    const { awayMs, log } = this.#options;
    const path = holderPath(this.#options);
    try {
      const client = HolderClient.find(path) ?? await HolderClient.start(path, awayMs);
      await client.watch(awayMs, () => this.#lost(client));
      if (this.#isOver) return client.stop();
      for (const [name, fd] of this.#kept) client.put(name, fd);
      this.#keeper = client;
      if (this.#restartMs > RESTART_FIRST_MS) log.info({}, 'the holder is back');
      this.#restartMs = RESTART_FIRST_MS;
    } catch (error) {
      this.#keeper = null;
      log.error({ error: (error as Error).message }, 'no holder: a crash will cost packets');
      this.#findAgain();
    }
  }

  #lost(keeper: Keeper): void {
    if (this.#isOver || this.#keeper !== keeper) return;
    this.#keeper = null;
    this.#options.log.warn({}, 'the holder has ended; starting another one');
    this.#findAgain();
  }

  #findAgain(): void {
    if (this.#isOver || this.#options.store !== null || this.#restartTimer !== null) return;
    this.#restartTimer = setTimeout(() => {
      this.#restartTimer = null;
      void this.#find();
    }, this.#restartMs);
    this.#restartMs = Math.min(this.#restartMs * 2, RESTART_LIMIT_MS);
  }

  /** Tells the keeper what is new of a name, if there is one; one that fails is of no more use. */
  #tell(name: string, say: (keeper: Keeper) => void): void {
    this.#untold?.add(name);
    const keeper = this.#keeper;
    if (keeper === null) return;
    try {
      say(keeper);
    } catch (error) {
      this.#options.log.error({ error: (error as Error).message }, 'the holder fails');
      keeper.close();
      this.#lost(keeper);
    }
  }
}

/** Where a daemon of this runtime directory looks for its holder. */
export function holderPath(
  { runtimeDirectory }: Pick<HandoverOptions, 'runtimeDirectory'>,
): string {
  return join(runtimeDirectory, HOLDER_SOCKET);
}

/** What descriptors are kept under of which each worker has one. */
function numbered(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, worker) => `${name}.${worker}`);
}

function keptFolder({ runtimeDirectory }: HandoverOptions): string {
  return join(runtimeDirectory, KEPT_FOLDER);
}

/** The name that a pod's device is kept under: short, for the keeper, and only its own. */
export function podName(namespace: string, name: string): string {
  const digest = createHash('sha256').update(`${namespace}/${name}`).digest('hex');
  return POD_PREFIX + digest.slice(0, DIGEST_LENGTH);
}
