// The log of long-running verbs. It is a file of its own: the sidecar has no use for what the
// daemon is made of, and it takes memory.

import { pino, type Logger } from 'pino';

/** JSON lines on standard error; standard output is for answers. */
export function makeLog(component: string, level: string): Logger {
  return pino({
    level,
    base: { component },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  }, pino.destination({ fd: 2, sync: true }));
}
