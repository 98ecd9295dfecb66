// The two ends of a stream (forge-stream.ts): a thread in a pod's namespace that echoes TCP and
// UDP, or one that talks to it without a pause and keeps account of what came back.

import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { Namespace } from '../../../ffi/netns.ts';
import type { StreamCommand, StreamData, StreamReport } from './forge-stream.ts';

const INTERVAL_MS = 5;
const LINGER_MS = 5000;
const RECORD_SIZE = 16;

async function serve(port: number): Promise<void> {
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen({ port, host: '::' }, resolve));
  for (const type of ['udp4', 'udp6'] as const) {
    const socket = createSocket({ type, ipv6Only: type === 'udp6' });
    socket.on('message', (message, from) => socket.send(message, from.port, from.address));
    socket.on('error', () => {});
    await new Promise<void>((resolve) => {
      socket.bind(port, type === 'udp4' ? '0.0.0.0' : '::', resolve);
    });
  }
}

/** A goal of both counters, and what to do when it is reached. */
interface Goal {
  datagrams: number;
  records: number;
  reached(): void;
}

class Talker {
  readonly report: StreamReport = {
    datagrams: 0, echoed: 0, records: 0, returned: 0, fault: '',
  };
  readonly #udp: UdpSocket;
  readonly #tcp: ReturnType<typeof connect>;
  readonly #timer: NodeJS.Timeout;
  readonly #target: { address: string; port: number };
  #partial = Buffer.alloc(0);
  #goals: Goal[] = [];

  constructor(address: string, port: number) {
    this.#target = { address, port };
    this.#udp = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    this.#udp.on('error', () => {});
    this.#udp.on('message', () => {
      this.report.echoed += 1;
      this.#check();
    });
    this.#tcp = connect({ host: address, port, noDelay: true });
    this.#tcp.on('error', (error) => { this.report.fault = error.message; });
    this.#tcp.on('close', () => { this.report.fault ||= 'closed'; });
    this.#tcp.on('data', (chunk) => this.#take(chunk));
    this.#timer = setInterval(() => this.#speak(), INTERVAL_MS);
  }

  /** Calls back when so many datagrams and records that are yet to be sent have come back. */
  more(count: number, reached: () => void): void {
    const { echoed, records } = this.report;
    this.#goals.push({ datagrams: echoed + count, records: records + count, reached });
  }

  /** Ends, once all has come back or time is up. */
  stop(done: (report: StreamReport) => void): void {
    clearInterval(this.#timer);
    const { datagrams, records } = this.report;
    const end = (): void => {
      clearTimeout(timer);
      const report = { ...this.report };
      this.#udp.close();
      this.#tcp.destroy();
      done(report);
    };
    const timer = setTimeout(end, LINGER_MS);
    this.#goals = [{ datagrams, records, reached: end }];
    this.#check();
  }

  #speak(): void {
    const record = Buffer.alloc(RECORD_SIZE);
    record.writeUInt32BE(this.report.datagrams);
    this.report.datagrams += 1;
    this.#udp.send(record, this.#target.port, this.#target.address, () => {});
    if (!this.#tcp.writable || this.#tcp.connecting || this.#tcp.writableNeedDrain) return;
    record.writeUInt32BE(this.report.records);
    this.report.records += 1;
    this.#tcp.write(record);
  }

  #take(chunk: Buffer): void {
    this.#partial = Buffer.concat([this.#partial, chunk]);
    while (this.#partial.length >= RECORD_SIZE) {
      const number = this.#partial.readUInt32BE(0);
      if (number !== this.report.returned) this.report.fault = `record ${number} out of order`;
      this.report.returned += 1;
      this.#partial = this.#partial.subarray(RECORD_SIZE);
    }
    this.#check();
  }

  #check(): void {
    const { echoed, returned } = this.report;
    const isReached = ({ datagrams, records }: Goal): boolean =>
      echoed >= datagrams && returned >= records;
    const reached = this.#goals.filter(isReached);
    this.#goals = this.#goals.filter((goal) => !isReached(goal));
    for (const goal of reached) goal.reached();
  }
}

const parent = parentPort;
if (parent !== null) {
  const { namespaceFd, address, port } = workerData as StreamData;
  new Namespace(namespaceFd).enter();
  if (address === null) {
    await serve(port);
    parent.postMessage({ id: 0, report: null });
  } else {
    const talker = new Talker(address, port);
    parent.on('message', ({ id, verb, count }: StreamCommand) => {
      if (verb === 'more') talker.more(count, () => parent.postMessage({ id, report: null }));
      else if (verb === 'report') parent.postMessage({ id, report: talker.report });
      else talker.stop((report) => parent.postMessage({ id, report }));
    });
    talker.more(1, () => parent.postMessage({ id: 0, report: null }));
  }
}
