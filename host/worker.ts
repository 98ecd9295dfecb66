// A data worker: a thread that blocks in poll() and does nothing but turns of the loop. Commands
// come over a message port and are read when the event descriptor says so.

import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { isMainThread, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { Core } from '../engine/core.ts';
import { currentModule } from '../engine/modules.ts';
import { EventSet } from '../ffi/epoll.ts';
import { drainEventFd } from '../ffi/file.ts';
import type { Device } from './device/device.ts';
import { FaultDevice, type FaultOptions } from './device/fault.ts';
import {
  LINK_TYPE_ETHERNET, LINK_TYPE_RAW, PcapDevice, recordsFrames, tunnelSkip,
} from './device/pcap.ts';
import { TunDevice } from './device/tun.ts';
import { TunnelTapDevice } from './device/tunnel-tap.ts';
import { UdpDevice } from './device/udp.ts';
import { CaptureTap, type TapBatch } from './capture-tap.ts';
import { monotonicClock } from './clock.ts';
import { Loop, WAIT_MS } from './loop.ts';
import { ModuleInstances } from './modules/instances.ts';
import type { ModuleEndpoint, ModulesOfWorker } from './modules/load.ts';
import type { ModuleReports } from './modules/instances.ts';
import { Slots } from './slots.ts';
import {
  GO_FIRST, THREAD_EVENTS, THREAD_GO, THREAD_ID, THREAD_STANDBY_EVENTS,
} from './thread-state.ts';

/** What a device is and what it is made of. Descriptors stay the main thread's to close. */
export interface DeviceEnds {
  index: number;
  name: string;
  kind: 'tun' | 'tap' | 'udp';
  /** One for each worker: a queue of a TUN or TAP, or a socket of one group. */
  receivers: number[];
  /** Sockets that all workers send by. */
  senders: number[];
}

/** A device for a worker to attach. */
export interface DeviceSpec extends DeviceEnds {
  /** Bytes of vnet header before each packet of a TUN or TAP. */
  vnetSize: number;
  /** A TAP that takes whole frames for an underlay device; -1 for none. */
  tunnelTap: number;
  /** File to record to; `a.1.pcap` in place of `a.pcap` for worker 1. */
  pcap: string | null;
  fault: FaultOptions | null;
}

export interface WorkerData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  worker: number;
  wakeFd: number;
  commands: MessagePort;
  /** Words of thread-state.ts. */
  state: Int32Array;
  /** It makes everything ready, and begins once THREAD_GO says how. */
  isStandby: boolean;
}

export type Command =
  | { id: number; verb: 'attach'; devices: DeviceSpec[] }
  | { id: number; verb: 'detach'; index: number }
  /** What sits at these places of the core's table from now on. */
  | { id: number; verb: 'modules' } & ModulesOfWorker
  | { id: number; verb: 'endpoints'; endpoints: ModuleEndpoint[] }
  /** Has the size of each module's memory reported. */
  | { id: number; verb: 'measure' }
  | { id: number; verb: 'stop' };

export type WorkerReport =
  | { type: 'done'; id: number; error: string | null }
  | { type: 'uncut'; name: string }
  | { type: 'tapLost' }
  | { type: 'captured'; batch: TapBatch }
  | { type: 'lost'; index: number; errno: number }
  | ModuleReports;

type Report = (message: WorkerReport) => void;

/** The worker's own of a device's descriptors. */
function receiverOf({ worker }: Slots, { name, receivers }: DeviceSpec): number {
  const receiver = receivers[worker];
  if (receiver === undefined) throw new Error(`attach ${name}: no queue for worker ${worker}`);
  return receiver;
}

function makeUnderlay(slots: Slots, spec: DeviceSpec, report: Report): Device {
  const onUncut = (): void => report({ type: 'uncut', name: spec.name });
  const device = new UdpDevice(slots, { ...spec, receiver: receiverOf(slots, spec), onUncut });
  if (spec.tunnelTap < 0) return device;
  const onLost = (): void => report({ type: 'tapLost' });
  return new TunnelTapDevice(device, slots, spec.tunnelTap, onLost);
}

function makeDevice(slots: Slots, spec: DeviceSpec, report: Report): Device {
  let device = spec.kind === 'udp'
    ? makeUnderlay(slots, spec, report)
    : new TunDevice(slots, spec.index, spec.name, receiverOf(slots, spec), spec.vnetSize);
  if (spec.fault !== null) device = new FaultDevice(device, slots, spec.fault);
  if (spec.pcap === null) return device;
  const { kind, index, pcap, vnetSize } = spec;
  const hasFrames = kind === 'udp' ? recordsFrames(index) : kind === 'tap';
  const linkType = hasFrames ? LINK_TYPE_ETHERNET : LINK_TYPE_RAW;
  const skip = kind === 'udp' ? tunnelSkip(index) : undefined;
  const path = slots.worker === 0 ? pcap : pcap.replace(/(\.pcap)?$/, `.${slots.worker}$1`);
  return new PcapDevice(device, slots, {
    path, linkType, vnetSize, ...(skip === undefined ? {} : { skip }),
  });
}

/** One thread: what it has, and how it is told. */
class DataWorker {
  readonly #data: WorkerData;
  readonly #report: Report;
  readonly #core: Core;
  readonly #slots: Slots;
  readonly #loop: Loop;
  readonly #modules: ModuleInstances;
  /** Devices that only the thread that runs may make: they write files from the start. */
  readonly #later = new Map<number, DeviceSpec>();
  #isStandby: boolean;

  constructor(data: WorkerData, report: Report) {
    this.#data = data;
    this.#report = report;
    this.#isStandby = data.isStandby;
    const core = Core.attach(data.module, data.memory);
    this.#core = core;
    this.#modules = new ModuleInstances(core, data.state, report);
    this.#slots = new Slots(core, data.worker);
    this.#loop = new Loop(this.#slots, data.wakeFd,
      (index, errno) => report({ type: 'lost', index, errno }),
      (fault) => this.#modules.fault(fault),
      new CaptureTap(this.#slots, (batch) => report({ type: 'captured', batch })));
    Atomics.store(data.state, THREAD_EVENTS, this.#loop.descriptor + 1);
  }

  /** Turns until it is told to stop. */
  run(): void {
    const { wakeFd } = this.#data;
    const clock = monotonicClock();
    if (this.#isStandby) {
      if (!this.#standBy()) return;
      this.#takeOver(clock());
    }
    for (;;) {
      if (this.#loop.wait(WAIT_MS)) {
        drainEventFd(wakeFd);
        if (this.#obey()) return;
      }
      this.#loop.turn(clock());
    }
  }

  close(): void {
    Atomics.store(this.#data.state, THREAD_EVENTS, 0);
    this.#loop.close();
  }

  /** Waits for its time, and does what it is told meanwhile. False where that is to stop. */
  #standBy(): boolean {
    const { wakeFd, state } = this.#data;
    const events = new EventSet(1);
    Atomics.store(state, THREAD_STANDBY_EVENTS, events.descriptor + 1);
    events.add(wakeFd, 0);
    try {
      for (;;) {
        if (this.#obey()) return false;
        if (Atomics.load(state, THREAD_GO) > 0) return true;
        if (events.wait(WAIT_MS) > 0) drainEventFd(wakeFd);
      }
    } finally {
      Atomics.store(state, THREAD_STANDBY_EVENTS, 0);
      events.close();
    }
  }

  #takeOver(nowMs: number): void {
    this.#isStandby = false;
    for (const device of this.#later.values()) {
      this.#attachNow(device);
    }
    this.#later.clear();
    const isFirst = Atomics.load(this.#data.state, THREAD_GO) === GO_FIRST;
    const isHalfDone = currentModule(this.#core, this.#data.worker) >= 0;
    if (isFirst || isHalfDone) this.#loop.resume(nowMs);
    else this.#slots.endTurn();
  }

  /** Carries out all commands that wait. Returns true after `stop`. */
  #obey(): boolean {
    for (;;) {
      const received = receiveMessageOnPort(this.#data.commands) as
        { message: Command } | undefined;
      if (received === undefined) return false;
      const command = received.message;
      const error = this.#carryOut(command);
      this.#report({ type: 'done', id: command.id, error });
      if (command.verb === 'stop') return true;
    }
  }

  /** Returns why it could not, or null. */
  #carryOut(command: Command): string | null {
    let error: string | null = null;
    const attempt = (work: () => void): void => {
      try {
        work();
      } catch (failure) {
        error ??= (failure as Error).message;
      }
    };
    switch (command.verb) {
      case 'attach':
        // All before the next turn: a packet may go from each of them to each other.
        for (const device of command.devices) attempt(() => this.#attach(device));
        break;
      case 'detach':
        this.#later.delete(command.index);
        attempt(() => this.#loop.detach(command.index));
        break;
      case 'modules':
        attempt(() => this.#modules.change(command));
        break;
      case 'endpoints':
        attempt(() => this.#modules.tell(command.endpoints));
        break;
      case 'measure':
        this.#report({ type: 'moduleSizes', sizes: this.#modules.sizes() });
        break;
      case 'stop':
    }
    return error;
  }

  #attach(device: DeviceSpec): void {
    this.#later.delete(device.index);
    if (this.#isStandby && device.pcap !== null) {
      this.#loop.detach(device.index);
      this.#later.set(device.index, device);
    } else {
      this.#attachNow(device);
    }
  }

  #attachNow(device: DeviceSpec): void {
    const made = makeDevice(this.#slots, device, this.#report);
    this.#loop.attach(device.index, made, device.vnetSize);
  }
}

/** The kernel's number of this thread, proc(5). */
function threadId(): number {
  return Number(basename(readlinkSync('/proc/thread-self')));
}

function main(data: WorkerData): void {
  Atomics.store(data.state, THREAD_ID, threadId());
  const worker = new DataWorker(data, (message) => data.commands.postMessage(message));
  try {
    worker.run();
  } finally {
    worker.close();
  }
}

if (!isMainThread) main(workerData as WorkerData);
