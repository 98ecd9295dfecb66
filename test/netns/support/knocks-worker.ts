// The thread of knocks.ts.

import { connect, createServer } from 'node:net';
import type { KnocksReport, KnocksRequest, Outcome } from './knocks.ts';
import { serveThread } from './thread.ts';
import { PATIENCE_MS } from '../../support/until.ts';

/** Longer than a SYN that was lost takes to be sent again. */
const WRONG_LIMIT = 10;
const STEP_MS = 5;

const report: KnocksReport = { open: 0, refused: 0, wrong: [] };
const underWay = new Set<Promise<void>>();
let timer: NodeJS.Timeout | null = null;

function listen(port: number): Promise<void> {
  const server = createServer((socket) => socket.on('error', () => socket.destroy()));
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: '::', ipv6Only: false, backlog: 4096 }, resolve);
  });
}

/** Opens a connection and ends it at once, so that no side remembers its port. */
function attempt(address: string, port: number, timeoutMs: number): Promise<Outcome> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    const wait = setTimeout(() => end('silence'), timeoutMs);
    const end = (outcome: Outcome): void => {
      clearTimeout(wait);
      socket.resetAndDestroy();
      resolve(outcome);
    };
    socket.once('connect', () => end('open'));
    socket.once('error', ({ message }) =>
      end(/ECONNREFUSED/.test(message) ? 'refused' : 'silence'));
  });
}

async function knock(address: string, port: number, wanted: 'open' | 'refused'): Promise<void> {
  const outcome = await attempt(address, port, PATIENCE_MS);
  if (outcome === wanted) report[wanted] += 1;
  else if (report.wrong.length < WRONG_LIMIT) report.wrong.push(`port ${port}: ${outcome}`);
}

function begin(address: string, open: number, shut: number, perSecond: number): void {
  const startMs = performance.now();
  let done = 0;
  timer = setInterval(() => {
    const due = ((performance.now() - startMs) * perSecond) / 1000;
    for (; done < due; done += 1) {
      const isOpen = done % 2 === 0;
      const one = knock(address, isOpen ? open : shut, isOpen ? 'open' : 'refused')
        .finally(() => underWay.delete(one));
      underWay.add(one);
    }
  }, STEP_MS);
}

serveThread<KnocksRequest>(async (request) => {
  switch (request.verb) {
    case 'listen':
      await Promise.all(request.ports.map(listen));
      return null;
    case 'try':
      return attempt(request.address, request.port, request.timeoutMs);
    case 'knock':
      begin(request.address, request.open, request.shut, request.perSecond);
      return null;
    case 'stop':
      if (timer !== null) clearInterval(timer);
      await Promise.all(underWay);
      return report;
  }
});
