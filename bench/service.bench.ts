// What a Service costs a packet, and whether the number of Services, or of a Service's backends,
// shows in it; and how long a change of endpoints takes until a packet can meet it.
//
// 32,768 TCP connections from 256 local pods to Services of 5 backends each, all on other nodes,
// are established before anything is timed; then each packet is of one of them, drawn by Zipf's
// law, but for 5 % that open another. `direct` are the same connections past the Services.
// `serviceFirst` are first packets only.

import {
  DESCRIPTOR_LENGTH, DESCRIPTOR_START, DIRECTORY_FLOWS, DIRECTORY_FLOW_COUNT, PEER_HEADER_SIZE,
  WORKERS_START, WORKER_FLOWS,
} from '../wasm/abi/layout.ts';
import { FLOW_SIZE } from '../wasm/abi/policy.ts';
import type { Core } from '../engine/core.ts';
import { readDrops } from '../engine/counters.ts';
import { FrameReader, encodeFrame } from '../engine/frame.ts';
import { DeltaSchema, type Delta, type Service } from '../engine/model.ts';
import { parseShape } from '../engine/shape.ts';
import { ServiceTables } from '../engine/tables/services.ts';
import { ACK, Feed, SYN, SYN_ACK } from './feed.ts';
import { Hash, Random, Zipf } from './random.ts';
import { quantile, round, type Measurement } from './report.ts';
import { measure, type Effort, type Measured, type Subject } from './rounds.ts';
import { BATCH, makeScene, remoteAddress, type Scene } from './scene.ts';

const PODS = 256;
const FLOWS = 32_768;
const FLOW_TABLE = 131_072;
const BACKENDS = 5;
/** Pods of other nodes that are backends. */
const REMOTE_PODS = 50_000;
const SIZES = [100, 10_000];
const SMALL_SIZES = [10, 20];
const WIDTHS = [8, 100, 1000];
const SMALL_WIDTHS = [2, 3];
const CHANGES = 2000;
const SMALL_CHANGES = 20;
const PORT = 80;
const BACKEND_PORT = 8080;
const FIRST_PART = 0.05;
const FIRST = -1;
const KNOWN_PORT = 1024;
const FIRST_PORT = 2048;
const SCHEDULE = 1 << 17;
const SEED = 1624;
const STRIDE = 31847;
const ZIPF_EXPONENT = 1.1;
const CLOCK_STEP = 3;
const HASHED_BATCHES = 64;
const BATCHES_KEPT = 400;

export function serviceBench(effort: Effort, small: boolean): Measured {
  const [few = 0, many = 0] = small ? SMALL_SIZES : SIZES;
  const widths = small ? SMALL_WIDTHS : WIDTHS;
  const scenes = [few, many].map((count) => new ServiceScene(count, BACKENDS, effort));
  const changes = scenes[1] === undefined ? [] : changeTimes(scenes[1], small);
  const direct = new ServiceScene(few, BACKENDS, effort);
  const subjects = [
    ...scenes.flatMap((scene) => known(`service/${scene.count}`, scene, true)),
    ...known('service/direct', direct, false),
    ...[few, many].flatMap((count) =>
      firsts(`serviceFirst/${count}`, new ServiceScene(count, BACKENDS, effort))),
    ...widths.flatMap((width) =>
      firsts(`serviceFirst/backends${width}`, new ServiceScene(few, width, effort))),
  ];
  const measured = measure('service', subjects, [
    { name: `service/${many}:${few}`, cost: `service/${many}`, to: `service/${few}` },
    { name: `serviceFirst/${many}:${few}`, cost: `serviceFirst/${many}`,
      to: `serviceFirst/${few}` },
    { name: 'service/direct', cost: `service/${few}`, to: 'service/direct' },
  ], effort);
  return { ...measured, results: [...measured.results, ...changes] };
}

/** A node with Services, and connections to them. */
class ServiceScene {
  readonly count: number;
  readonly scene: Scene;
  readonly tables: ServiceTables;
  readonly feed: Feed;
  /** The remote pod that each connection has got. */
  readonly backends = new Int32Array(FLOWS);
  readonly #words: Int32Array;
  readonly #schedule: Int32Array;
  #next = 0;
  #firsts = 0;
  #clock = 1_000_000;

  constructor(count: number, width: number, { say }: Effort) {
    this.count = count;
    const services = { fronts: 32_768, backends: 262_144 };
    this.scene = makeScene({
      pods: PODS, families: ['IPv4'], routes: count, policy: { flows: FLOW_TABLE }, services,
    });
    const { core, forwarding, limits } = this.scene;
    this.tables = new ServiceTables(core, limits.services, (name, addresses) =>
      forwarding.claimService(name, addresses));
    const list = Array.from({ length: count }, (_, index) => serviceOf(index, width));
    this.tables.apply({ services: list, removedServices: [] });
    const bytes = Math.round(this.tables.bytes / 1024);
    say(`service: ${count} Services of ${width} backends take ${bytes} KiB`);
    this.feed = new Feed(core);
    this.#words = new Int32Array(core.memory.buffer);
    this.#schedule = makeSchedule();
  }

  get core(): Core {
    return this.scene.core;
  }

  /** Opens every connection by SYN, SYN with ACK, ACK, by way of its Service or past it. */
  establish(isServed: boolean): void {
    for (let first = 0; first < FLOWS; first += BATCH) {
      for (let slot = 0; slot < BATCH; slot += 1) this.#putKnown(slot, first + slot, SYN, true);
      this.process();
      for (let slot = 0; slot < BATCH; slot += 1) this.backends[first + slot] = this.#sentTo(slot);
      if (!isServed) {
        this.#repeat(first, SYN, false);
      }
      for (let slot = 0; slot < BATCH; slot += 1) {
        const flow = first + slot;
        const to = flow % PODS;
        this.feed.putIpv4(slot, this.backends[flow] ?? 0, false, to, true, BACKEND_PORT,
          portOf(flow), SYN_ACK);
      }
      this.process();
      this.#repeat(first, ACK, isServed);
    }
  }

  #repeat(first: number, flags: number, isServed: boolean): void {
    for (let slot = 0; slot < BATCH; slot += 1) {
      this.#putKnown(slot, first + slot, flags, isServed);
    }
    this.process();
  }

  /** Writes the next batch of known connections, and a few new ones. */
  fill(isServed: boolean): void {
    for (let slot = 0; slot < BATCH; slot += 1) {
      const flow = this.#schedule[this.#next] ?? 0;
      this.#next = (this.#next + 1) & (SCHEDULE - 1);
      if (flow === FIRST) this.putFirst(slot, isServed);
      else this.#putKnown(slot, flow, ACK, isServed);
    }
  }

  fillFirsts(): void {
    for (let slot = 0; slot < BATCH; slot += 1) this.putFirst(slot, true);
  }

  process(): void {
    this.#clock = (this.#clock + CLOCK_STEP) | 0;
    this.core.exports.processBatch(this.feed.firstSlot, BATCH, this.#clock);
  }

  forgetFlows(): void {
    const count = this.core.directory(DIRECTORY_FLOW_COUNT);
    const tags = this.core.directory(DIRECTORY_FLOWS) + (count * FLOW_SIZE);
    this.core.bytes.fill(0, tags, tags + count);
    this.core.view.setUint32(WORKERS_START + WORKER_FLOWS, 0, true);
  }

  putFirst(slot: number, isServed: boolean): void {
    const number = this.#firsts;
    this.#firsts += 1;
    const port = FIRST_PORT + (((number / PODS) | 0) % 60_000);
    this.#put(slot, number % PODS, (number * STRIDE) % this.count, number % REMOTE_PODS, port,
      SYN, isServed);
  }

  #putKnown(slot: number, flow: number, flags: number, isServed: boolean): void {
    this.#put(slot, flow % PODS, (flow * STRIDE) % this.count, this.backends[flow] ?? 0,
      portOf(flow), flags, isServed);
  }

  #put(
    slot: number, from: number, service: number, backend: number, port: number, flags: number,
    isServed: boolean,
  ): void {
    this.feed.putIpv4(slot, from, true, backend, false, port, isServed ? PORT : BACKEND_PORT,
      flags);
    if (!isServed) return;
    const start = this.core.descriptorAddress(this.feed.firstSlot + slot) + DESCRIPTOR_START;
    const at = this.core.view.getUint32(start, true) / 4;
    const words = this.#words;
    const had = words[at + 4] ?? 0;
    const address = serviceWord(service);
    // RFC 1624 equation 3, in full.
    let sum = (~((words[at + 2] ?? 0) >>> 16) & 0xffff) + (~had & 0xffff) + (~(had >>> 16) & 0xffff)
      + (address & 0xffff) + (address >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    words[at + 2] = ((words[at + 2] ?? 0) & 0xffff) | ((~sum & 0xffff) << 16);
    words[at + 4] = address;
  }

  /** The remote pod that a packet was sent to. */
  #sentTo(slot: number): number {
    const descriptor = this.core.descriptorAddress(this.feed.firstSlot + slot);
    const start = this.core.view.getUint32(descriptor + DESCRIPTOR_START, true);
    const length = this.core.view.getUint32(descriptor + DESCRIPTOR_LENGTH, true);
    const packet = this.core.bytes.subarray(start + PEER_HEADER_SIZE, start + length);
    return (packet[18] ?? 0) | (((packet[19] ?? 1) - 1) << 8);
  }

  hash(fill: () => void): string {
    const hash = new Hash();
    for (let batch = 0; batch < HASHED_BATCHES; batch += 1) {
      fill();
      this.process();
      this.feed.hashSlots(hash);
    }
    return hash.text();
  }

  /** Conflicts are meant: two of a pod's new connections may be to one backend. */
  expectNoDrops(): void {
    for (const [reason, count] of Object.entries(readDrops(this.core, 'outbound'))) {
      if (count > 0 && reason !== 'serviceConflict') throw new Error(`${count} dropped: ${reason}`);
    }
  }
}

function portOf(flow: number): number {
  return KNOWN_PORT + ((flow / PODS) | 0);
}

/** 10.97.0.0 and the Service's number. */
function serviceAddress(index: number): string {
  return `10.97.${index >>> 8}.${index & 255}`;
}

function serviceWord(index: number): number {
  return (0x610a | ((index >>> 8) << 16) | ((index & 255) << 24)) >>> 0;
}

function serviceOf(index: number, width: number, skipped = -1): Service {
  const pods = Array.from({ length: width }, (_, number) =>
    ((index * width) + number) % REMOTE_PODS);
  return {
    namespace: 'bench', name: `service-${index}`, addresses: [serviceAddress(index)],
    affinitySeconds: 0, empty: 'reject',
    ports: [{
      name: 'http', protocol: 'TCP', port: PORT,
      backends: pods.filter((_, number) => number !== skipped).map((pod) =>
        ({ address: remoteAddress('IPv4', pod), port: BACKEND_PORT, state: 'ready' })),
    }],
  };
}

function makeSchedule(): Int32Array {
  const random = new Random(SEED);
  const zipf = new Zipf(random, FLOWS, ZIPF_EXPONENT);
  return Int32Array.from({ length: SCHEDULE }, () =>
    random.next() / 0x100000000 < FIRST_PART ? FIRST : Math.imul(zipf.next(), 40503) & (FLOWS - 1));
}

function known(name: string, scene: ServiceScene, isServed: boolean): Subject[] {
  scene.establish(isServed);
  return withInput(name, scene, () => scene.fill(isServed), () => {});
}

function firsts(name: string, scene: ServiceScene): Subject[] {
  let batches = 0;
  return withInput(name, scene, () => scene.fillFirsts(), () => {
    batches += 1;
    if (batches % BATCHES_KEPT === 0) scene.forgetFlows();
  });
}

function withInput(
  name: string, scene: ServiceScene, fill: () => void, before: () => void,
): Subject[] {
  const input = `${name}/input`;
  const run = (): void => {
    before();
    fill();
    scene.process();
  };
  return [
    { name: input, hidden: true, opsPerRun: BATCH, run: fill, hash: () => '' },
    {
      name, opsPerRun: BATCH, run, without: input,
      hash: () => scene.hash(fill),
      check: () => scene.expectNoDrops(),
    },
  ];
}

/** From the bytes of a frame that takes an endpoint out, or puts it back, until packets go by
 * it. */
function changeTimes({ tables, count }: ServiceScene, small: boolean): Measurement[] {
  const times: number[] = [];
  const hash = new Hash();
  const changes = small ? SMALL_CHANGES : CHANGES;
  for (let change = 0; change < changes; change += 1) {
    const index = ((change >>> 1) * STRIDE) % count;
    const skipped = (change & 1) === 0 ? change % BACKENDS : -1;
    const delta: Delta = {
      from: change, to: change + 1, nodes: [], removedNodes: [], pods: [], removedPods: [],
      services: [serviceOf(index, BACKENDS, skipped)],
    };
    const frame = encodeFrame(delta);
    const start = process.hrtime.bigint();
    const [message] = new FrameReader().push(frame);
    const { services = [] } = parseShape(DeltaSchema, message, 'delta');
    tables.apply({ services, removedServices: [] });
    times.push(Number(process.hrtime.bigint() - start));
    hash.add(tables.tables()[1]?.used ?? 0);
  }
  const result = (name: string, share: number): Measurement => ({
    name: `serviceChange/${name}`, nsPerOp: round(quantile(times, share), 1), ops: changes,
    hash: hash.text(),
  });
  return [result('p50', 0.5), result('p99', 0.99)];
}
