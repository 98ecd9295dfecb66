// The threads of datagrams.ts.

import { createSocket, type Socket } from 'node:dgram';
import { parentPort, workerData } from 'node:worker_threads';
import { Namespace } from '../../../ffi/netns.ts';
import type { DatagramData, DatagramReport } from './datagrams.ts';

const BUFFER_BYTES = 1 << 20;

const arrived = new Map<number, number[]>();
let sent = 0;

function listen(port: number): Promise<void> {
  const socket = createSocket({ type: 'udp6', recvBufferSize: BUFFER_BYTES });
  const numbers: number[] = [];
  arrived.set(port, numbers);
  socket.on('message', (message) => numbers.push(message.readUInt32BE(0)));
  return new Promise((resolve) => socket.bind(port, '::', resolve));
}

/** Sends a datagram to each target, in their order, without a pause. */
function send(sockets: Record<string, Socket>, { targets }: DatagramData): void {
  let waiting = targets.length;
  for (const { address, port } of targets) {
    const message = Buffer.alloc(16);
    message.writeUInt32BE(sent);
    sent += 1;
    sockets[address.includes(':') ? 'udp6' : 'udp4']?.send(message, port, address, () => {
      waiting -= 1;
      if (waiting === 0) setImmediate(() => send(sockets, workerData as DatagramData));
    });
  }
}

async function bound(type: 'udp4' | 'udp6'): Promise<Socket> {
  const socket = createSocket(type);
  socket.on('error', () => {});
  await new Promise<void>((resolve) => socket.bind(resolve));
  return socket;
}

function report(withNumbers: boolean): DatagramReport {
  const counts = [...arrived].map(([port, { length }]): [number, number] => [port, length]);
  return { sent, counts, numbers: withNumbers ? [...arrived] : [] };
}

const parent = parentPort;
if (parent !== null) {
  const data = workerData as DatagramData;
  new Namespace(data.namespaceFd).enter();
  for (const port of data.ports) await listen(port);
  if (data.targets.length > 0) {
    const sockets = { udp4: await bound('udp4'), udp6: await bound('udp6') };
    send(sockets, data);
  }
  parent.on('message', (verb: string) => {
    if (verb === 'end') process.exit();
    parent.postMessage(report(verb === 'numbers'));
  });
  parent.postMessage(report(false));
}
