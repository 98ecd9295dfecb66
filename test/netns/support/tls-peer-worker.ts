// The thread of tls-peer.ts.

import { once } from 'node:events';
import { connect as connectTcp, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { serveThread } from './thread.ts';
import type { TlsQuestion, TlsRequest } from './tls-peer.ts';

const REPLY = 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nserved\n';
/** Between two segments, so that nobody joins them. */
const PIECE_MS = 5;

async function serve(port: number, key: string, cert: string): Promise<void> {
  const server = createServer({ key, cert }, (socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', () => socket.end(REPLY));
  });
  server.on('tlsClientError', () => undefined);
  server.listen({ port, host: '::', ipv6Only: false });
  await once(server, 'listening');
}

/** A socket whose writes go out in segments of so many bytes. */
class Pieces extends Duplex {
  readonly #socket: Socket;
  readonly #size: number;

  constructor(socket: Socket, size: number) {
    super();
    this.#socket = socket;
    this.#size = size;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.push(chunk));
    socket.on('end', () => this.push(null));
    socket.on('error', (error) => this.destroy(error));
  }

  override _read(): void {
    // What comes is pushed as it comes.
  }

  override _write(chunk: Buffer, _: string, done: (error?: Error | null) => void): void {
    if (chunk.length === 0) return done();
    this.#socket.write(chunk.subarray(0, this.#size), () => {
      setTimeout(() => this._write(chunk.subarray(this.#size), _, done), PIECE_MS);
    });
  }

  override _final(done: () => void): void {
    this.#socket.end(done);
  }
}

function ask({ address, port, name, pieceBytes, timeoutMs }: TlsQuestion): Promise<string> {
  return new Promise((resolve) => {
    const tcp = connectTcp({ host: address, port });
    const timer = setTimeout(() => end('no answer in time'), timeoutMs);
    let tls: TLSSocket | null = null;
    const end = (answer: string): void => {
      clearTimeout(timer);
      tls?.destroy();
      tcp.destroy();
      resolve(answer);
    };
    tcp.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
    tcp.on('connect', () => {
      const socket = pieceBytes === 0 ? tcp : new Pieces(tcp, pieceBytes);
      const options = { socket, rejectUnauthorized: false };
      tls = connect(name === null ? options : { ...options, servername: name });
      tls.on('secureConnect', () => tls?.write('GET / HTTP/1.0\r\n\r\n'));
      tls.on('data', (chunk: Buffer) => {
        end(chunk.toString().includes('200 OK') ? 'answered' : 'a strange answer');
      });
      tls.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
      tls.on('close', () => end('closed'));
    });
  });
}

/** True where a connection is opened in time. */
function knockOnce(host: string, port: number, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp({ host, port });
    const end = (isOpen: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(isOpen);
    };
    const timer = setTimeout(() => end(false), timeoutMs);
    socket.on('connect', () => end(true));
    socket.on('error', () => end(false));
  });
}

serveThread<TlsRequest>(async (request) => {
  if (request.verb === 'serve') return serve(request.port, request.key, request.certificate);
  if (request.verb === 'ask') return ask(request);
  let open = 0;
  for (let time = 0; time < request.times; time += 1) {
    if (await knockOnce(request.address, request.port, request.timeoutMs)) open += 1;
  }
  return open;
});
