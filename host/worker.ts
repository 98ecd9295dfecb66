// A data worker: a thread that blocks in poll() and does nothing but turns of the loop. Commands
// come over a message port and are read when the event descriptor says so.

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { Core } from '../engine/core.ts';
import { drainEventFd } from '../ffi/file.ts';
import type { Device } from './device/device.ts';
import { FaultDevice, type FaultOptions } from './device/fault.ts';
import {
  LINK_TYPE_ETHERNET, LINK_TYPE_RAW, PcapDevice, recordsFrames, tunnelSkip,
} from './device/pcap.ts';
import { TunDevice } from './device/tun.ts';
import { TunnelTapDevice } from './device/tunnel-tap.ts';
import { UdpDevice } from './device/udp.ts';
import { monotonicClock } from './clock.ts';
import { Loop, WAIT_MS } from './loop.ts';
import { Slots } from './slots.ts';

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
}

export type Command =
  | { id: number; verb: 'attach'; devices: DeviceSpec[]; isFirst: boolean }
  | { id: number; verb: 'detach'; index: number }
  | { id: number; verb: 'stop' };

export type WorkerReport =
  | { type: 'done'; id: number; error: string | null }
  | { type: 'uncut'; name: string }
  | { type: 'tapLost' }
  | { type: 'lost'; index: number; errno: number };

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

function main(data: WorkerData, report: Report): void {
  const core = Core.attach(data.module, data.memory);
  const slots = new Slots(core, data.worker);
  const loop = new Loop(slots, data.wakeFd, (index, errno) =>
    report({ type: 'lost', index, errno }));
  try {
    run(loop, slots, data, report);
  } finally {
    loop.close();
  }
}

/** Turns until it is told to stop. */
function run(loop: Loop, slots: Slots, data: WorkerData, report: Report): void {
  const clock = monotonicClock();
  for (;;) {
    if (loop.wait(WAIT_MS)) {
      drainEventFd(data.wakeFd);
      if (obey(loop, slots, data.commands, report)) return;
    }
    loop.turn(clock());
  }
}

/** Carries out all commands that wait. Returns true after `stop`. */
function obey(
  loop: Loop,
  slots: Slots,
  commands: MessagePort,
  report: Report,
): boolean {
  for (;;) {
    const received = receiveMessageOnPort(commands) as { message: Command } | undefined;
    if (received === undefined) return false;
    const command = received.message;
    let error: string | null = null;
    const attempt = (work: () => void): void => {
      try {
        work();
      } catch (failure) {
        error ??= (failure as Error).message;
      }
    };
    if (command.verb === 'attach') {
      // All before the next turn: a packet may go from each of them to each other.
      for (const device of command.devices) {
        attempt(() => loop.attach(device.index, makeDevice(slots, device, report)));
      }
      if (command.isFirst) attempt(() => loop.resume(monotonicClock()()));
    } else if (command.verb === 'detach') {
      attempt(() => loop.detach(command.index));
    }
    report({ type: 'done', id: command.id, error });
    if (command.verb === 'stop') return true;
  }
}

const port = parentPort;
if (port !== null) main(workerData as WorkerData, (message) => port.postMessage(message));
