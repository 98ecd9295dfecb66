// Reads what the core has judged, record by record, from the workers' verdict rings.

import { addressText } from './address.ts';
import type { Core } from './core.ts';
import {
  DIRECTORY_VERDICTS,
  DIRECTORY_VERDICT_LIMIT,
  DIRECTORY_WORKER_COUNT,
} from '../wasm/abi/layout.ts';
import { moduleOf } from './modules.ts';
import * as ring from '../wasm/abi/policy.ts';

/** One judgement: what a pod's rule set said of the first packet of a flow. */
export interface Verdict {
  /** Moment on the data plane's clock, milliseconds, wrapping. */
  moment: number;
  /** Device of the pod that enforced. */
  device: number;
  direction: 'ingress' | 'egress';
  allowed: boolean;
  answer: number;
  /** Place of the module that decided, -1 where policy did. */
  module: number;
  source: string;
  destination: string;
  sourceIdentity: number;
  destinationIdentity: number;
  protocol: number;
  sourcePort: number;
  destinationPort: number;
  tcpFlags: number;
}

/** Follows the rings of a core. Records that were overwritten before they were read are counted. */
export class VerdictReader {
  lost = 0;
  readonly #core: Core;
  readonly #heads: number[];

  /** Starts at what is judged from now on, or with as many earlier records as there are. */
  constructor(core: Core, earlier = false) {
    this.#core = core;
    const limit = core.directory(DIRECTORY_VERDICT_LIMIT);
    this.#heads = Array.from({ length: core.directory(DIRECTORY_WORKER_COUNT) }, (_, worker) => {
      const head = this.#head(worker);
      return earlier ? Math.max(0, head - limit) : head;
    });
  }

  /** The records since the last call, oldest first. */
  read(): Verdict[] {
    return this.#heads.flatMap((_, worker) => this.#readRing(worker));
  }

  #readRing(worker: number): Verdict[] {
    const limit = this.#core.directory(DIRECTORY_VERDICT_LIMIT);
    const head = this.#head(worker);
    let next = this.#heads[worker] ?? head;
    if (((head - next) >>> 0) > limit) {
      this.lost += ((head - next) >>> 0) - limit;
      next = (head - limit) >>> 0;
    }
    const verdicts: Verdict[] = [];
    for (; next !== head; next = (next + 1) >>> 0) verdicts.push(this.#record(worker, next));
    this.#heads[worker] = head;
    const overwritten = Math.max(0, ((this.#head(worker) - head) >>> 0) + verdicts.length - limit);
    this.lost += overwritten;
    return verdicts.slice(overwritten);
  }

  #ring(worker: number): number {
    const limit = this.#core.directory(DIRECTORY_VERDICT_LIMIT);
    const size = ring.VERDICTS_RECORDS + (limit * ring.VERDICT_SIZE);
    return this.#core.directory(DIRECTORY_VERDICTS) + (worker * size);
  }

  #head(worker: number): number {
    const words = new Uint32Array(this.#core.memory.buffer);
    return Atomics.load(words, (this.#ring(worker) + ring.VERDICTS_HEAD) / 4);
  }

  #record(worker: number, number: number): Verdict {
    const { view, bytes } = this.#core;
    const limit = this.#core.directory(DIRECTORY_VERDICT_LIMIT);
    const at = this.#ring(worker) + ring.VERDICTS_RECORDS
      + ((number & (limit - 1)) * ring.VERDICT_SIZE);
    const size = view.getUint8(at + ring.VERDICT_FAMILY) === 4 ? 4 : 16;
    const address = (field: number): string =>
      addressText(bytes.slice(at + field, at + field + size));
    const key = view.getUint32(at + ring.VERDICT_KEY, true);
    const answer = view.getUint32(at + ring.VERDICT_ANSWER, true);
    return {
      moment: view.getInt32(at + ring.VERDICT_TIME, true),
      device: view.getUint16(at + ring.VERDICT_DEVICE, true),
      direction: view.getUint8(at + ring.VERDICT_INGRESS) === 1 ? 'ingress' : 'egress',
      allowed: view.getUint8(at + ring.VERDICT_ALLOWED) === 1,
      answer,
      module: moduleOf(answer),
      source: address(ring.VERDICT_SOURCE),
      destination: address(ring.VERDICT_DESTINATION),
      sourceIdentity: view.getUint32(at + ring.VERDICT_SOURCE_IDENTITY, true),
      destinationIdentity: view.getUint32(at + ring.VERDICT_DESTINATION_IDENTITY, true),
      protocol: key >>> ring.PROGRAM_KEY_PROTOCOL_SHIFT,
      sourcePort: view.getUint16(at + ring.VERDICT_SOURCE_PORT, true),
      destinationPort: key & 0xffff,
      tcpFlags: view.getUint8(at + ring.VERDICT_TCP_FLAGS),
    };
  }
}
