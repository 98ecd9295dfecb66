// The proxy's thread: does what it is told, and says what it has counted.

import { parentPort } from 'node:worker_threads';
import { REPORT_MS } from './limits.ts';
import type { ProxyCounters } from './front.ts';
import type { Listener } from './plan.ts';
import { PortProxy } from './proxy.ts';

/** All that an owner has from now on. */
export interface ProxyCommand {
  owner: string;
  listeners: Listener[];
}

export interface ProxyReport {
  counters: ProxyCounters;
  used: { connections: number; sessions: number };
  open: number;
  problems: string[];
}

const port = parentPort;
if (port !== null) {
  const proxy = new PortProxy();
  let last = '';
  port.on('message', ({ owner, listeners }: ProxyCommand) => proxy.put(owner, listeners));
  setInterval(() => {
    const { counters, used } = proxy.shared;
    const report: ProxyReport =
      { counters, used, open: proxy.openCount, problems: proxy.problems() };
    const text = JSON.stringify(report);
    if (text !== last) port.postMessage(report);
    last = text;
  }, REPORT_MS);
}
