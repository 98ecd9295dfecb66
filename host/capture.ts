// A capture as it is asked for on control.sock: tells the data workers to show packets, and makes a
// pcapng file of what they show. The asker fetches it at its own pace; what it is too slow for is
// counted, and nobody waits. One capture at a time.

import {
  CAPTURE_DROPPED, CAPTURE_LOCAL, CAPTURE_UNDERLAY, DEVICE_FIRST_ENDPOINT, DEVICE_KIND,
  DEVICE_KIND_TAP, DEVICE_NODE, DEVICE_STRIDE, DIRECTORY_CAPTURE, DIRECTORY_CAPTURE_LENGTH,
  DIRECTORY_DEVICES, DROPPED_BYTES_MAX,
} from '../wasm/abi/layout.ts';
import {
  DIRECTION_OUTBOUND, REASON_ETHER_TYPE, REASON_OWN_MAC, REASON_WRONG_MAC,
} from '../wasm/abi/verdict.ts';
import { method, RequestError, type Connection, type Methods } from '../engine/connection.ts';
import type { Core } from '../engine/core.ts';
import { REASON_NAMES } from '../engine/counters.ts';
import {
  CaptureBeginSchema, type CaptureBegin, type Captured, type CapturePlace,
} from '../engine/model-capture.ts';
import {
  FLAG_INBOUND, FLAG_OUTBOUND, interfaceBlock, LINK_TYPE_ETHERNET, LINK_TYPE_RAW, LINK_TYPE_USER0,
  packetBlock, sectionBlock, statisticsBlock,
} from '../engine/pcapng.ts';
import * as v from 'valibot';
import type { TapBatch, TapRecord } from './capture-tap.ts';
import { recordsFrames } from './device/pcap.ts';

/** Bytes that wait to be fetched, and those of one answer, which must fit a frame. */
const WAITING_LIMIT = 8 * 1024 * 1024;
const ANSWER_LIMIT = 512 * 1024;
/** How long an answer waits for a packet, and how often it looks. */
const READ_WAIT_MS = 500;
const READ_STEP_MS = 20;
/** How long the last packets may take from a worker to here. */
const END_WAIT_MS = 50;

const BITS: Record<CapturePlace, number> = {
  tun: CAPTURE_LOCAL, underlay: CAPTURE_UNDERLAY, drop: CAPTURE_DROPPED,
};
/** Reasons of packets that are still whole frames when they are dropped. */
const FRAME_REASONS: ReadonlySet<number> = new Set(
  [REASON_WRONG_MAC, REASON_OWN_MAC, REASON_ETHER_TYPE]);

/** What it needs of a daemon. */
export interface CaptureHost {
  readonly core: Core;
  readonly options: { readonly version: string };
  readonly dataPlane: {
    /** A device's name: that of an interface, or a pod. */
    deviceName(index: number): string;
    onCaptured: ((batch: TapBatch) => void) | null;
  };
}

/** An interface of the file. */
interface Line {
  number: number;
  received: number;
  lost: number;
}

export class Capture {
  readonly #host: CaptureHost;
  #owner: Connection | null = null;
  #snapLength = 0;
  #lines = new Map<string, Line>();
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #packets = 0;
  #lost = 0;

  constructor(host: CaptureHost) {
    this.#host = host;
  }

  /** What may be asked on control.sock. */
  methods(): Methods {
    const nothing = v.nullable(v.strictObject({}));
    return {
      'capture.begin': method(CaptureBeginSchema, (begin, from) => this.#begin(begin, from)),
      'capture.read': method(nothing, (_, from) => this.#read(from)),
      'capture.end': method(nothing, (_, from) => this.#end(from)),
    };
  }

  #begin({ places, snapLength }: CaptureBegin, owner: Connection): Captured {
    if (this.#owner !== null) throw new RequestError('busy', 'another capture is going on');
    const { core, options: { version }, dataPlane } = this.#host;
    this.#owner = owner;
    this.#snapLength = snapLength;
    this.#lines = new Map();
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#packets = 0;
    this.#lost = 0;
    this.#push(sectionBlock(`culvert ${version}`));
    dataPlane.onCaptured = (batch) => this.#take(batch);
    core.setDirectory(DIRECTORY_CAPTURE_LENGTH, snapLength);
    core.setDirectory(DIRECTORY_CAPTURE, places.reduce((bits, place) => bits | BITS[place], 0));
    void owner.closed.then(() => this.#stop(owner));
    return this.#answer();
  }

  /** What there is; waits a little where there is nothing. */
  async #read(from: Connection): Promise<Captured> {
    this.#check(from);
    const end = performance.now() + READ_WAIT_MS;
    while (this.#waiting.length === 0 && performance.now() < end && this.#owner === from) {
      await new Promise((resolve) => setTimeout(resolve, READ_STEP_MS));
    }
    return this.#answer();
  }

  /** The rest, or as much of it as fits. The statistics are the last. */
  async #end(from: Connection): Promise<Captured> {
    this.#check(from);
    const { core, dataPlane } = this.#host;
    if (dataPlane.onCaptured !== null) {
      core.setDirectory(DIRECTORY_CAPTURE, 0);
      // What workers have under way is part of it.
      await new Promise((resolve) => setTimeout(resolve, END_WAIT_MS));
      this.#check(from);
      dataPlane.onCaptured = null;
      for (const { number, received, lost } of this.#lines.values()) {
        this.#push(statisticsBlock(number, Date.now(), received, lost));
      }
    }
    const answer = this.#answer();
    const more = this.#waiting.length > 0;
    if (!more) this.#stop(from);
    return { ...answer, more };
  }

  #check(from: Connection): void {
    if (this.#owner !== from) throw new RequestError('none', 'no capture was begun');
  }

  #stop(owner: Connection): void {
    if (this.#owner !== owner) return;
    const { core, dataPlane } = this.#host;
    core.setDirectory(DIRECTORY_CAPTURE, 0);
    dataPlane.onCaptured = null;
    this.#owner = null;
    this.#waiting = [];
    this.#waitingBytes = 0;
  }

  #answer(): Captured {
    let size = 0;
    const end = this.#waiting.findIndex(({ length }, place) => {
      if (place > 0 && size + length > ANSWER_LIMIT) return true;
      size += length;
      return false;
    });
    const parts = this.#waiting.splice(0, end < 0 ? this.#waiting.length : end);
    this.#waitingBytes -= size;
    const bytes = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return { bytes, packets: this.#packets, lost: this.#lost, more: true };
  }

  #take({ records, lost }: TapBatch): void {
    this.#lost += lost;
    for (const record of records) this.#add(record);
  }

  #add(record: TapRecord): void {
    const line = record.reason === 0 ? this.#deviceLine(record) : this.#dropLine(record);
    line.received += 1;
    if (this.#waitingBytes > WAITING_LIMIT) {
      line.lost += 1;
      this.#lost += 1;
      return;
    }
    const way = record.isRead ? FLAG_INBOUND : FLAG_OUTBOUND;
    this.#push(packetBlock({
      interface: line.number,
      timeMs: record.timeMs,
      bytes: record.bytes,
      length: record.length,
      flags: record.reason === 0 ? way : 0,
      comment: record.reason === 0 ? '' : this.#commentOf(record),
    }));
    this.#packets += 1;
  }

  #deviceLine({ device }: TapRecord): Line {
    const isLocal = device === DEVICE_NODE || device >= DEVICE_FIRST_ENDPOINT;
    const hasFrames = isLocal ? this.#isTap(device) : recordsFrames(device);
    const linkType = hasFrames ? LINK_TYPE_ETHERNET : LINK_TYPE_RAW;
    const about = isLocal ? 'as its stack sends and gets them' : 'what is inside its tunnels';
    return this.#line(this.#host.dataPlane.deviceName(device), about, linkType);
  }

  #isTap(device: number): boolean {
    const { core } = this.#host;
    const record = core.directory(DIRECTORY_DEVICES) + (device * DEVICE_STRIDE);
    return core.bytes[record + DEVICE_KIND] === DEVICE_KIND_TAP;
  }

  /** Packets are dropped where they are no IP packets yet, too. */
  #dropLine({ reason, bytes: [first = 0] }: TapRecord): Line {
    if (FRAME_REASONS.has(reason)) {
      return this.#line('drop-frame', 'dropped as Ethernet frames', LINK_TYPE_ETHERNET);
    }
    const version = first >>> 4;
    return version === 4 || version === 6
      ? this.#line('drop', 'dropped packets', LINK_TYPE_RAW)
      : this.#line('drop-header', 'dropped by the header of a tunnel', LINK_TYPE_USER0);
  }

  #line(name: string, description: string, linkType: number): Line {
    const known = this.#lines.get(name);
    if (known !== undefined) return known;
    const isDrop = name.startsWith('drop');
    const snapLength = isDrop ? Math.min(this.#snapLength, DROPPED_BYTES_MAX) : this.#snapLength;
    this.#push(interfaceBlock({ name, description, linkType, snapLength }));
    const line = { number: this.#lines.size, received: 0, lost: 0 };
    this.#lines.set(name, line);
    return line;
  }

  #commentOf({ reason, direction, device, packets }: TapRecord): string {
    const way = direction === DIRECTION_OUTBOUND ? 'outbound' : 'inbound';
    const many = packets > 1 ? `, ${packets} packets` : '';
    const name = REASON_NAMES[reason] ?? String(reason);
    const from = this.#host.dataPlane.deviceName(device);
    return `dropped ${way}: ${name}, from ${from}${many}`;
  }

  #push(block: Uint8Array): void {
    this.#waiting.push(block);
    this.#waitingBytes += block.length;
  }
}
