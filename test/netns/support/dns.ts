// A DNS client that shows where answers come from (RFC 1035): one question, by UDP or TCP.

import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { addressText } from '../../../engine/address.ts';
import { read16 } from '../../support/packets.ts';

export interface DnsQuestion {
  address: string;
  protocol: 'UDP' | 'TCP';
  name: string;
  type: 'A' | 'AAAA';
  timeoutMs: number;
}

/** `from` and `port`: whose datagram or connection brought it. */
export interface DnsAnswer {
  from: string;
  port: number;
  addresses: string[];
}

const PORT = 53;
const HEADER_SIZE = 12;
const IDENTIFIER = 0x4321;
/** A query, recursion desired: RFC 1035 section 4.1.1. */
const FLAGS = 0x0100;
const TYPE = { A: 1, AAAA: 28 } as const;
const CLASS_INTERNET = 1;
/** Type, class, time to live and length that follow a record's name. */
const RECORD_SIZE = 10;
const POINTER = 0xc0;
/** Before a message on a connection: RFC 1035 section 4.2.2. */
const LENGTH_SIZE = 2;

function query(name: string, type: 'A' | 'AAAA'): Buffer {
  const labels = name.split('.').map((label) =>
    Buffer.concat([Buffer.of(label.length), Buffer.from(label)]));
  const header = Buffer.alloc(HEADER_SIZE);
  header.writeUInt16BE(IDENTIFIER, 0);
  header.writeUInt16BE(FLAGS, 2);
  header.writeUInt16BE(1, 4);
  return Buffer.concat([header, ...labels, Buffer.of(0, 0, TYPE[type], 0, CLASS_INTERNET)]);
}

/** The addresses in a response. Throws where it is another's. */
function readResponse(response: Uint8Array): string[] {
  if (read16(response, 0) !== IDENTIFIER) throw new Error('another identifier');
  let at = skipName(response, HEADER_SIZE) + 4;
  const addresses: string[] = [];
  for (let left = read16(response, 6); left > 0; left -= 1) {
    at = skipName(response, at);
    const start = at + RECORD_SIZE;
    const type = read16(response, at);
    at = start + read16(response, at + 8);
    const isAddress = type === TYPE.A || type === TYPE.AAAA;
    if (isAddress) addresses.push(addressText(response.slice(start, at)));
  }
  return addresses;
}

function skipName(message: Uint8Array, start: number): number {
  let at = start;
  for (;;) {
    const length = message[at] ?? 0;
    if (length >= POINTER) return at + 2;
    at += 1 + length;
    if (length === 0) return at;
  }
}

/** Asks once. Throws where no answer comes. */
export function askDns(question: DnsQuestion): Promise<DnsAnswer> {
  return question.protocol === 'UDP' ? askByUdp(question) : askByTcp(question);
}

function askByUdp({ address, name, type, timeoutMs }: DnsQuestion): Promise<DnsAnswer> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const timer = setTimeout(() => fail(new Error('no answer in time')), timeoutMs);
    const end = (): void => {
      clearTimeout(timer);
      socket.close();
    };
    const fail = (error: Error): void => {
      end();
      reject(error);
    };
    socket.on('error', fail);
    socket.on('message', (message, { address: from, port }) => {
      end();
      resolve({ from, port, addresses: readResponse(message) });
    });
    socket.send(query(name, type), PORT, address);
  });
}

function askByTcp({ address, name, type, timeoutMs }: DnsQuestion): Promise<DnsAnswer> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port: PORT });
    const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), timeoutMs);
    let received = Buffer.alloc(0);
    socket.on('connect', () => {
      const message = query(name, type);
      const length = Buffer.alloc(LENGTH_SIZE);
      length.writeUInt16BE(message.length);
      socket.write(Buffer.concat([length, message]));
    });
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < LENGTH_SIZE) return;
      if (received.length < LENGTH_SIZE + received.readUInt16BE()) return;
      const addresses = readResponse(received.subarray(LENGTH_SIZE));
      resolve({ from: socket.remoteAddress ?? '', port: socket.remotePort ?? 0, addresses });
      socket.end();
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      reject(new Error('closed without an answer'));
    });
  });
}
