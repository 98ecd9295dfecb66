// ClientHellos (RFC 8446 section 4.1.2), written out, and one of a real TLS library.

import { createServer, type AddressInfo } from 'node:net';
import { connect } from 'node:tls';

const SERVER_NAME = 0;
const SUPPORTED_GROUPS = 10;
const SUPPORTED_VERSIONS = 43;
export const ENCRYPTED_CLIENT_HELLO = 0xfe0d;
/** Values that mean nothing and must be skipped (RFC 8701). */
const GREASE = 0x3a3a;

function bytes16(value: number): number[] {
  return [value >>> 8, value & 0xff];
}

function sized16(content: readonly number[]): number[] {
  return [...bytes16(content.length), ...content];
}

function extension(type: number, content: readonly number[]): number[] {
  return [...bytes16(type), ...sized16(content)];
}

function serverName(name: string): number[] {
  const host = [...new TextEncoder().encode(name)];
  return extension(SERVER_NAME, sized16([0, ...sized16(host)]));
}

/** What a ClientHello is to have. */
export interface HelloShape {
  name?: string | null;
  grease?: boolean;
  /** More extensions, before the name's. */
  before?: number[][];
  /** No extensions at all, not even their length. */
  bare?: boolean;
  /** At most so many bytes of handshake in a record. */
  recordSize?: number;
}

/** Another extension, of a size. */
export function filler(type: number, size: number): number[] {
  return extension(type, new Array<number>(size).fill(0x55));
}

/** The bytes that a client sends first. */
export function clientHello(shape: HelloShape = {}): Uint8Array {
  const { name = 'www.example.com', grease = false, before = [], recordSize = 16384 } = shape;
  const extensions = [
    ...grease ? extension(GREASE, []) : [],
    ...before.flat(),
    ...extension(SUPPORTED_GROUPS, sized16([...grease ? bytes16(GREASE) : [], 0, 29])),
    ...name === null ? [] : serverName(name),
    ...extension(SUPPORTED_VERSIONS, [2, 3, 4]),
    ...grease ? extension(0xfafa, [0]) : [],
  ];
  const suites = [...grease ? bytes16(GREASE) : [], 0x13, 0x01, 0x13, 0x02];
  const body = [3, 3, ...new Array<number>(32).fill(7), 32, ...new Array<number>(32).fill(9),
    ...sized16(suites), 1, 0, ...shape.bare === true ? [] : sized16(extensions)];
  const handshake = [1, body.length >>> 16, ...bytes16(body.length & 0xffff), ...body];
  const records: number[] = [];
  for (let at = 0; at < handshake.length; at += recordSize) {
    records.push(22, 3, 1, ...sized16(handshake.slice(at, at + recordSize)));
  }
  return Uint8Array.from(records);
}

/** What Node.js's TLS library sends first when it asks for a host. */
export function realClientHello(name: string): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.once('data', (data) => {
        socket.destroy();
        server.close();
        resolve(new Uint8Array(data));
      });
    });
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      connect({ host: '127.0.0.1', port, servername: name }).on('error', () => {});
    });
    server.on('error', reject);
  });
}
