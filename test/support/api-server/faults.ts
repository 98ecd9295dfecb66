// Faults by script: what goes wrong with which request. A fault is added with the requests that it
// meets and how often; each request takes the first fault that fits.

import type { ServerResponse } from 'node:http';

/** Which requests a fault meets. What is left out fits all. */
export interface FaultMatch {
  /** Plural name, such as `pods`. */
  resource?: string;
  /** As RBAC says it: `list`, `watch`, `get`, `patch`. A WatchList is a `watch`. */
  verb?: string;
  user?: string;
  /** True: only a WatchList; false: only others. */
  watchList?: boolean;
}

/** What goes wrong. Several may be combined where that makes sense. */
export interface Fault {
  match?: FaultMatch;
  /** How many requests it meets; once unless told otherwise. */
  times?: number;
  /** Answer this status instead. */
  status?: number;
  /** With `status`. */
  retryAfterSeconds?: number;
  reason?: string;
  message?: string;
  /** With `status`: this text, not a Status object. */
  text?: string;
  /** Wait before the answer begins. */
  delayMs?: number;
  /** Send an ERROR event with this code after `afterEvents` events, and end. */
  errorCode?: number;
  /** Where `errorCode`, `end`, `cut`, `hang`, `garbage` happen: after so many events... */
  afterEvents?: number;
  /** ...or so many bytes of body. */
  afterBytes?: number;
  /** How the body goes wrong there: a proper end, a cut connection, silence for ever, or bytes that
   * are no JSON and then an end. */
  then?: 'end' | 'cut' | 'hang' | 'garbage';
  bytesPerSecond?: number;
  /** Each event is sent so many times. */
  copies?: number;
  /** Events come in reversed order within groups of this size. */
  reversed?: number;
  /** Each object carries an annotation of this many bytes. */
  padBytes?: number;
}

/** The faults that wait for requests. */
export class Faults {
  readonly waiting: { fault: Fault; left: number }[] = [];
  /** Faults that met a request. */
  count = 0;

  add(...faults: Fault[]): void {
    for (const fault of faults) this.waiting.push({ fault, left: fault.times ?? 1 });
  }

  clear(): void {
    this.waiting.length = 0;
  }

  /** The fault of a request, which is thereby used once. */
  take(asked: { plural: string; verb: string }, user: string, isWatchList: boolean): Fault | null {
    for (const [i, entry] of this.waiting.entries()) {
      const { resource, verb, user: who, watchList } = entry.fault.match ?? {};
      if (resource !== undefined && resource !== asked.plural) continue;
      if (verb !== undefined && verb !== asked.verb) continue;
      if (who !== undefined && who !== user) continue;
      if (watchList !== undefined && watchList !== isWatchList) continue;
      entry.left -= 1;
      if (entry.left <= 0) this.waiting.splice(i, 1);
      this.count += 1;
      return entry.fault;
    }
    return null;
  }
}

const SLOW_TICK_MS = 20;
const REVERSED_WAIT_MS = 50;

/** The body of one answer, on its way through a fault. */
export class Body {
  readonly #response: ServerResponse;
  readonly #fault: Fault;
  readonly #errorLine: (code: number) => string;
  #events = 0;
  #bytes = 0;
  #isOver = false;
  #held: string[] = [];
  #slow: Buffer[] = [];
  #timer: NodeJS.Timeout | null = null;
  #flush: NodeJS.Timeout | null = null;

  constructor(response: ServerResponse, fault: Fault | null,
    errorLine: (code: number) => string = () => '') {
    this.#response = response;
    this.#fault = fault ?? {};
    this.#errorLine = errorLine;
    response.on('close', () => this.#stop());
    if (this.#fault.afterEvents === 0) this.#fail();
  }

  /** True once nothing more is sent. */
  get isOver(): boolean {
    return this.#isOver || this.#response.destroyed;
  }

  /** One event of a watch, with its line end. False asks to wait for `drain`. */
  event(line: string): boolean {
    const { reversed, copies = 1 } = this.#fault;
    if (reversed === undefined) return this.#eventNow(line, copies);
    this.#held.push(line);
    if (this.#held.length >= reversed) this.#release();
    else this.#flush ??= setTimeout(() => this.#release(), REVERSED_WAIT_MS);
    return true;
  }

  #release(): void {
    if (this.#flush !== null) clearTimeout(this.#flush);
    this.#flush = null;
    const held = this.#held.reverse();
    this.#held = [];
    for (const line of held) this.#eventNow(line, this.#fault.copies ?? 1);
  }

  #eventNow(line: string, copies: number): boolean {
    let more = true;
    for (let i = 0; i < copies; i += 1) more = this.text(line);
    this.#events += 1;
    if (this.#fault.afterEvents === this.#events) this.#fail();
    return more;
  }

  /** A piece of a body. False asks to wait for `drain`. */
  text(piece: string): boolean {
    if (this.isOver) return true;
    let bytes: Buffer = Buffer.from(piece);
    const { afterBytes } = this.#fault;
    const isLast = afterBytes !== undefined && this.#bytes + bytes.length >= afterBytes;
    if (isLast) bytes = bytes.subarray(0, afterBytes - this.#bytes);
    this.#bytes += bytes.length;
    const more = this.#send(bytes);
    if (isLast) this.#fail();
    return more;
  }

  end(): void {
    if (this.isOver) return;
    this.#release();
    if (this.isOver) return;
    this.#isOver = true;
    if (this.#timer === null) this.#response.end();
  }

  #send(bytes: Buffer): boolean {
    const { bytesPerSecond } = this.#fault;
    if (bytesPerSecond === undefined) return this.#response.write(bytes);
    this.#slow.push(bytes);
    this.#timer ??= setInterval(() => {
      const waiting = Buffer.concat(this.#slow);
      const size = Math.max(1, Math.floor((bytesPerSecond * SLOW_TICK_MS) / 1000));
      this.#response.write(waiting.subarray(0, size));
      this.#slow = waiting.length > size ? [waiting.subarray(size)] : [];
      if (this.#slow.length > 0) return;
      if (this.#timer !== null) clearInterval(this.#timer);
      this.#timer = null;
      if (this.#isOver) this.#response.end();
    }, SLOW_TICK_MS);
    return true;
  }

  #fail(): void {
    if (this.isOver) return;
    const { errorCode, then = errorCode === undefined ? 'cut' : 'end' } = this.#fault;
    if (errorCode !== undefined) this.#response.write(this.#errorLine(errorCode));
    this.#isOver = true;
    if (then === 'hang') return;
    if (then === 'garbage') this.#response.write('{"type":"ADDED","object":}\n');
    if (then === 'cut') {
      // What was written is let out first, so that the cut comes where it was asked for.
      setImmediate(() => this.#response.destroy());
    } else {
      this.#response.end();
    }
  }

  #stop(): void {
    this.#isOver = true;
    if (this.#timer !== null) clearInterval(this.#timer);
    if (this.#flush !== null) clearTimeout(this.#flush);
  }
}
