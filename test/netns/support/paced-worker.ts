// The threads of paced.ts: numbered datagrams at a steady rate, their listener, and a watch over a
// link that looks for packets of pods outside a tunnel.

import { createSocket } from 'node:dgram';
import { parentPort, workerData } from 'node:worker_threads';
import { addressText } from '../../../engine/address.ts';
import { closeFd } from '../../../ffi/file.ts';
import { Namespace } from '../../../ffi/netns.ts';
import { openPacketSocket, receiveFrame, receiveFrom } from '../../../ffi/raw-socket.ts';
import { openUdpSocket } from '../../../ffi/socket.ts';
import {
  ETHERNET_HEADER_SIZE, ETHERNET_TYPE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
} from '../../../wasm/abi/headers.ts';
import type { PacedData, PacedReport } from './paced.ts';

const BUFFER_BYTES = 4 << 20;
const FRAME_SIZE_MAX = 65_536 + 64;
/** Longest time in which no command is heard. */
const STEP_MS = 20;
const SAMPLE_BYTES = 54;
/** A sender that was kept from its work makes up for no more: a burst would fill a device's queue,
 * whatever the network does. */
const BURST_LIMIT = 100;

const report: PacedReport = {
  sent: 0, arrived: 0, duplicates: 0, longestGapMs: 0, frames: 0, strays: 0, sample: '',
};
let isOver = false;
/** What end() has to close: descriptors do not go with a thread. */
let descriptor = -1;

/** Sends what is due by the clock, whether there is a way or not. */
function send({ address, port, perSecond }: PacedData): void {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.on('error', () => {});
  const startMs = performance.now();
  let missed = 0;
  const timer = setInterval(() => {
    if (isOver) return clearInterval(timer);
    const planned = Math.floor(((performance.now() - startMs) * perSecond) / 1000);
    missed = Math.max(missed, planned - report.sent - BURST_LIMIT);
    const due = planned - missed;
    for (; report.sent < due; report.sent += 1) {
      const message = Buffer.alloc(64);
      message.writeUInt32BE(report.sent);
      socket.send(message, port, address, () => {});
    }
  }, 1);
}

/** Counts what comes to an address of the namespace. The queue is large: a burst after a silence is
 * no loss of the network's. */
function listen({ address, port }: PacedData): void {
  const family = address.includes(':') ? 'IPv6' : 'IPv4';
  const fd = openUdpSocket({
    family, address, port, receiveBufferBytes: BUFFER_BYTES, sendBufferBytes: BUFFER_BYTES,
  });
  descriptor = fd;
  const seen = new Set<number>();
  const buffer = new Uint8Array(FRAME_SIZE_MAX);
  let lastMs = 0;
  repeat(() => {
    const received = receiveFrom(fd, buffer, STEP_MS);
    if (received === null) return false;
    const nowMs = performance.now();
    if (lastMs > 0) report.longestGapMs = Math.max(report.longestGapMs, nowMs - lastMs);
    lastMs = nowMs;
    const number = new DataView(buffer.buffer).getUint32(0);
    if (seen.has(number)) report.duplicates += 1;
    seen.add(number);
    report.arrived = seen.size;
    return true;
  });
}

/** Does it again and again until it says that there is nothing to do, then hears commands. */
function repeat(work: () => boolean): void {
  const deadline = performance.now() + STEP_MS;
  while (performance.now() < deadline && work());
  setImmediate(() => repeat(work));
}

/** True for an IP packet of a pod that is in no tunnel. */
function isStray(frame: Uint8Array): boolean {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const type = view.getUint16(ETHERNET_TYPE);
  const ip = ETHERNET_HEADER_SIZE;
  if (type === ETHER_TYPE_IPV4) {
    return [12, 16].some((at) => frame[ip + at] === 10 && frame[ip + at + 1] === 244);
  }
  if (type !== ETHER_TYPE_IPV6) return false;
  return [8, 24].some((at) =>
    addressText(frame.subarray(ip + at, ip + at + 16)).startsWith('fd00:10:244:'));
}

function watch(device: string): void {
  const fd = openPacketSocket(device);
  descriptor = fd;
  const buffer = new Uint8Array(FRAME_SIZE_MAX);
  repeat(() => {
    const received = receiveFrame(fd, buffer, STEP_MS);
    if (received === null || isOver) return false;
    report.frames += 1;
    if (!isStray(buffer.subarray(0, received.length))) return true;
    report.strays += 1;
    report.sample ||= Buffer.from(buffer.subarray(0, SAMPLE_BYTES)).toString('hex');
    return true;
  });
}

const parent = parentPort;
if (parent !== null) {
  const data = workerData as PacedData;
  new Namespace(data.namespaceFd).enter();
  if (data.role === 'send') send(data);
  else if (data.role === 'listen') listen(data);
  else watch(data.device);
  parent.on('message', (verb: string) => {
    if (verb === 'stop') isOver = true;
    if (verb === 'end') {
      if (descriptor >= 0) closeFd(descriptor);
      process.exit();
    }
    parent.postMessage(report);
  });
  parent.postMessage(report);
}
