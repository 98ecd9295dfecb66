// The log of long-running verbs. It is a file of its own: the sidecar has no use for what the
// daemon is made of, and it takes memory.

import { pino, type Logger } from 'pino';
import { LogLimit } from '../engine/log-limit.ts';

/** Below this number are levels that somebody has asked for, to see everything. */
const LEVEL_INFO = 30;

/** JSON lines on standard error; standard output is for answers. Of a message that comes again and
 * again some lines are left out; the next one says how many, as `linesSuppressed`. */
export function makeLog(component: string, level: string): Logger {
  const limit = new LogLimit();
  return pino({
    level,
    base: { component },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    hooks: {
      logMethod(line, method, number) {
        const [fields, message] = line as unknown as [object, string];
        const before = number < LEVEL_INFO ? 0 : limit.take(message, performance.now());
        if (before < 0) return;
        const more = before === 0 ? fields : { ...fields, linesSuppressed: before };
        method.apply(this, [more, message] as unknown as typeof line);
      },
    },
  }, pino.destination({ fd: 2, sync: true }));
}
