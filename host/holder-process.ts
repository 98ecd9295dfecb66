// What the daemon starts as its holder: a process without the command line around it.
//
// usage: node holder-process.js SOCKET AWAY_MS

import { runHolder } from './holder.ts';

const [socketPath = '', awayMs = '0'] = process.argv.slice(2);
runHolder({ socketPath, awayMs: Number(awayMs) });
