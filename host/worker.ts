// A data worker: a thread that blocks in poll() and does nothing but turns of the loop. Commands
// come over a message port and are read when the event descriptor says so.

import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { VXLAN_HEADER_SIZE } from '../wasm/abi/headers.ts';
import { Core } from '../engine/core.ts';
import { drainEventFd } from '../ffi/file.ts';
import type { Device } from './device/device.ts';
import { FaultDevice, type FaultOptions } from './device/fault.ts';
import { LINK_TYPE_ETHERNET, LINK_TYPE_RAW, PcapDevice } from './device/pcap.ts';
import { TunDevice } from './device/tun.ts';
import { UdpDevice } from './device/udp.ts';
import { monotonicClock } from './clock.ts';
import { Loop, WAIT_MS } from './loop.ts';
import { Slots } from './slots.ts';

/** A device for a worker to attach. Descriptors stay the main thread's to close. */
export interface DeviceSpec {
  index: number;
  name: string;
  kind: 'tun' | 'tap' | 'udp';
  receiver: number;
  senders: number[];
  /** File to record to. */
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
  | { id: number; verb: 'attach'; device: DeviceSpec }
  | { id: number; verb: 'detach'; index: number }
  | { id: number; verb: 'stop' };

export type WorkerReport =
  | { type: 'done'; id: number; error: string | null }
  | { type: 'lost'; index: number; errno: number };


function makeDevice(slots: Slots, spec: DeviceSpec): Device {
  let device: Device = spec.kind === 'udp'
    ? new UdpDevice(slots, spec.index, spec.name, spec.receiver, spec.senders)
    : new TunDevice(slots, spec.index, spec.name, spec.receiver);
  if (spec.fault !== null) device = new FaultDevice(device, slots, spec.fault);
  if (spec.pcap === null) return device;
  const linkType = spec.kind === 'tun' ? LINK_TYPE_RAW : LINK_TYPE_ETHERNET;
  const skip = spec.kind === 'udp' ? VXLAN_HEADER_SIZE : 0;
  return new PcapDevice(device, slots, { path: spec.pcap, linkType, skip });
}

function main(data: WorkerData, report: (message: WorkerReport) => void): void {
  const core = Core.attach(data.module, data.memory);
  const slots = new Slots(core, data.worker);
  const loop = new Loop(slots, data.wakeFd, (index, errno) =>
    report({ type: 'lost', index, errno }));
  const clock = monotonicClock();
  let isBusy = false;
  for (;;) {
    if (loop.wait(isBusy ? 0 : WAIT_MS)) {
      drainEventFd(data.wakeFd);
      if (obey(loop, slots, data.commands, report)) return;
    }
    isBusy = loop.turn(clock()) > 0;
  }
}

/** Carries out all commands that wait. Returns true after `stop`. */
function obey(
  loop: Loop,
  slots: Slots,
  commands: MessagePort,
  report: (message: WorkerReport) => void,
): boolean {
  for (;;) {
    const received = receiveMessageOnPort(commands) as { message: Command } | undefined;
    if (received === undefined) return false;
    const command = received.message;
    let error: string | null = null;
    try {
      if (command.verb === 'attach') {
        loop.attach(command.device.index, makeDevice(slots, command.device));
      } else if (command.verb === 'detach') {
        loop.detach(command.index);
      }
    } catch (failure) {
      error = (failure as Error).message;
    }
    report({ type: 'done', id: command.id, error });
    if (command.verb === 'stop') return true;
  }
}

const port = parentPort;
if (port !== null) main(workerData as WorkerData, (message) => port.postMessage(message));
