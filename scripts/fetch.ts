// Makes programs from Debian ready that the machine lacks: `node dist/scripts/fetch.js dnsmasq`.

import { bringTools, TOOLS } from './tools.ts';

const names = process.argv.slice(2);
await bringTools(TOOLS.filter(({ name }) => names.includes(name)));
