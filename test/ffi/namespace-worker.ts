// A worker thread that enters a namespace for good and reports what it finds there.

import { createSocket } from 'node:dgram';
import { connect, createServer, type AddressInfo } from 'node:net';
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { Links } from '../../ffi/netlink.ts';
import { Namespace } from '../../ffi/netns.ts';

/** What the worker saw. */
export interface WorkerReport {
  interfaces: string[];
  /** Address that a node:dgram socket could bind. */
  datagram: string;
  /** What a node:net client read from a node:net server at the same address. */
  stream: string;
  devicesFile: string;
}

const { fd, address } = workerData as { fd: number; address: string };
new Namespace(fd).enter();
const links = new Links();
const interfaces = (await links.list()).map(({ name }) => name);
links.close();
const devicesFile = readFileSync('/proc/thread-self/net/dev', 'utf8');
const report: WorkerReport = {
  interfaces, datagram: await bindDatagram(), stream: await echoStream(), devicesFile,
};
parentPort?.postMessage(report);

async function bindDatagram(): Promise<string> {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(0, address, resolve);
  });
  const bound = socket.address().address;
  socket.close();
  return bound;
}

async function echoStream(): Promise<string> {
  const server = createServer((socket) => socket.end('here'));
  await new Promise<void>((resolve) => server.listen(0, address, resolve));
  const client = connect((server.address() as AddressInfo).port, address);
  let text = '';
  for await (const part of client) text += part;
  server.close();
  return text;
}
