// The thread of lines.ts.

import { createSocket } from 'node:dgram';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { askDns } from './dns.ts';
import type { Echo, Greeting, Held, LinesRequest, Post, Target } from './lines.ts';
import { serveThread } from './thread.ts';

/** A busy machine may lose a datagram. */
const RESEND_MS = 1000;
/** Between a held connection's answer and its next question. */
const PAUSE_MS = 20;

const servers: Server[] = [];
const held: { state: Held; socket: Socket }[] = [];

const plain = (address = ''): string => address.replace(/^::ffff:/, '');

function listen({ address, port, name }: Post): Promise<void> {
  const server = createServer((socket) => {
    const greeting: Greeting = {
      by: name, seen: plain(socket.remoteAddress), port: socket.localPort ?? 0,
    };
    socket.on('error', () => socket.destroy());
    socket.write(`${JSON.stringify(greeting)}\n`);
    socket.on('data', (chunk: Buffer) => socket.write(chunk));
  });
  servers.push(server);
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: address, ipv6Only: false }, resolve);
  });
}

function listenDatagrams({ address, port, name }: Post): Promise<void> {
  const isIpv6 = address.includes(':');
  const socket = createSocket({ type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6 });
  socket.on('error', () => {});
  socket.on('message', (_, remote) => {
    const greeting: Greeting = { by: name, seen: remote.address, port };
    socket.send(JSON.stringify(greeting), remote.port, remote.address);
  });
  return new Promise((resolve) => { socket.bind(port, address, resolve); });
}

/** Opens a connection and hears the greeting. One that is half open does not end by itself where
 * the other end does. */
function greet(
  { address, port, timeoutMs }: Target, allowHalfOpen = false,
): Promise<{ socket: Socket; greeting: Greeting }> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port, noDelay: true, allowHalfOpen });
    const timer = setTimeout(() => socket.destroy(new Error('no answer in time')), timeoutMs);
    const end = (error?: Error): void => {
      clearTimeout(timer);
      reject(error ?? new Error('closed without an answer'));
    };
    let text = '';
    const take = (chunk: Buffer): void => {
      text += chunk.toString();
      if (!text.endsWith('\n')) return;
      clearTimeout(timer);
      socket.off('data', take);
      resolve({ socket, greeting: JSON.parse(text) as Greeting });
    };
    socket.on('data', take);
    socket.once('end', () => { if (text === '') socket.destroy(); });
    socket.once('error', end);
    socket.once('close', () => end());
  });
}

async function who(request: Target): Promise<Greeting> {
  const { socket, greeting } = await greet(request);
  socket.on('error', () => {});
  socket.end();
  return greeting;
}

function datagram({ address, port, timeoutMs }: Target): Promise<Echo> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const send = (): void => socket.send('who', port, address);
    const again = setInterval(send, RESEND_MS);
    const end = (): void => {
      clearTimeout(timer);
      clearInterval(again);
      socket.close();
    };
    const timer = setTimeout(() => {
      end();
      reject(new Error('no answer in time'));
    }, timeoutMs);
    socket.on('error', (error) => {
      end();
      reject(error);
    });
    socket.on('message', (message, { address: from, port: fromPort }) => {
      end();
      resolve({ ...JSON.parse(message.toString()) as Greeting, from, fromPort });
    });
    send();
  });
}

async function hold(request: Target & { count: number }): Promise<Held[]> {
  await Promise.all(Array.from({ length: request.count }, () => holdOne(request)));
  return report();
}

async function holdOne(request: Target): Promise<void> {
  const { socket, greeting: { by } } = await greet(request, true);
  const state: Held = { by, localPort: socket.localPort ?? 0, echoes: 0, end: '' };
  const ask = (): void => { socket.write('again\n'); };
  socket.on('data', () => {
    state.echoes += 1;
    setTimeout(ask, PAUSE_MS);
  });
  socket.on('error', (error: NodeJS.ErrnoException) => { state.end ||= error.code ?? 'error'; });
  // libuv tells of an end, too, where a reset comes together with data; a write fails after it.
  socket.on('end', () => socket.write('again\n', (error?: NodeJS.ErrnoException | null) => {
    state.end ||= error?.code ?? 'closed';
    socket.destroy();
  }));
  socket.on('close', () => { state.end ||= 'closed'; });
  held.push({ state, socket });
  ask();
}

function report(): Held[] {
  return held.map(({ state }) => ({ ...state }));
}

serveThread<LinesRequest>(async (request) => {
  switch (request.verb) {
    case 'serve': return listen(request);
    case 'serveDatagrams': return listenDatagrams(request);
    case 'stopListening': return servers.splice(0).forEach((server) => server.close());
    case 'who': return who(request);
    case 'datagram': return datagram(request);
    case 'hold': return hold(request);
    case 'held': return report();
    case 'letGo': return held.splice(0).forEach(({ socket }) => socket.destroy());
    case 'dns': return askDns(request);
  }
});
