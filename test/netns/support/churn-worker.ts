// The thread of churn-load.ts.

import { createSocket, type Socket } from 'node:dgram';
import { connect } from 'node:net';
import {
  CLIENT_PORTS, nowMs, type LoadReport, type LoadRequest, type LoadTarget,
} from './churn-load.ts';
import { serveThread } from './thread.ts';

/** Sockets of each Service at a time. */
const SOCKETS = 4;
/** Between the end of a connection and the next one of a Service. */
const PAUSE_MS = 20;
/** Of all Services, for each connection of one. */
const DATAGRAMS_PER_CONNECTION = 125;
/** Far longer than a connection takes, or an answer, where its backend is there. */
const CONNECTION_MS = 5000;

const report: LoadReport = { sent: 0, answered: 0, opened: 0, connected: 0, failed: 0 };
let isOver = false;

/** A socket of a Service with what it has still to send. */
interface Talker {
  target: LoadTarget;
  socket: Socket;
  address: string;
  left: number;
}

/** How many ports were taken, by the first of their range. */
const taken = new Map<number, number>();

/** The next client port for a Service, and the address of it whose turn it is. */
function take(
  { addresses, from }: LoadTarget, protocol: 'TCP' | 'UDP',
): { localPort: number; address: string } {
  const first = from[protocol];
  const count = taken.get(first) ?? 0;
  taken.set(first, count + 1);
  report.opened += 1;
  return {
    localPort: first + (count % CLIENT_PORTS), address: addresses[count % addresses.length] ?? '',
  };
}

function makeTalker(target: LoadTarget, left: number): Talker {
  const { localPort, address } = take(target, 'UDP');
  const isIpv6 = address.includes(':');
  const socket = createSocket({ type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6 });
  socket.on('error', () => {});
  socket.on('message', () => { report.answered += 1; });
  socket.bind({ port: localPort, exclusive: true });
  return { target, socket, address, left };
}

function speak(talker: Talker): void {
  const message = Buffer.alloc(Float64Array.BYTES_PER_ELEMENT);
  message.writeDoubleBE(nowMs());
  talker.socket.send(message, talker.target.port, talker.address, () => {});
  talker.left -= 1;
  report.sent += 1;
}

function sendAll(targets: LoadTarget[], pace: Int32Array, each: number): void {
  const talkers = targets.flatMap((target) =>
    Array.from({ length: SOCKETS }, () => makeTalker(target, each)));
  let turn = 0;
  const timer = setInterval(() => {
    if (isOver) {
      clearInterval(timer);
      return;
    }
    for (const due = Atomics.load(pace, 0); report.sent < due; turn += 1) {
      const at = turn % talkers.length;
      const talker = talkers[at];
      if (talker === undefined) return;
      speak(talker);
      if (talker.left > 0) continue;
      setTimeout(() => talker.socket.close(), CONNECTION_MS);
      talkers[at] = makeTalker(talker.target, each);
    }
  }, 1);
}

/** One connection after the other, as datagrams fall due: it hears a greeting, or fails, whose
 * backend has left. */
function connectAll(target: LoadTarget, pace: Int32Array, done = 0): void {
  if (isOver) return;
  if (done * DATAGRAMS_PER_CONNECTION > Atomics.load(pace, 0)) {
    setTimeout(() => connectAll(target, pace, done), PAUSE_MS);
    return;
  }
  const { localPort, address } = take(target, 'TCP');
  const socket = connect({ host: address, port: target.port, localPort });
  let isGreeted = false;
  const timer = setTimeout(() => socket.destroy(), CONNECTION_MS);
  socket.on('data', () => {
    isGreeted = true;
    socket.end();
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    clearTimeout(timer);
    if (isGreeted) report.connected += 1;
    else report.failed += 1;
    setTimeout(() => connectAll(target, pace, done + 1), PAUSE_MS);
  });
}

serveThread<LoadRequest>(async (request) => {
  if (request.verb === 'start') {
    sendAll(request.targets, request.pace, request.each);
    for (const target of request.targets) connectAll(target, request.pace);
  }
  if (request.verb === 'stop') isOver = true;
  return { ...report };
});
