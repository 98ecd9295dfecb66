// The plugin as a program, which the runtime starts anew for every call: `npm run build` bundles it
// into one file, dist/cni/culvert.cjs (docs/decisions/cni-bundle.md).

import { readFileSync, writeSync } from 'node:fs';
import { LATEST, VERSIONS } from './request.ts';
import { runPlugin } from './plugin.ts';

/** Put in by the bundler. */
declare const CULVERT_VERSION: string;

const STDIN = 0;
const STDOUT = 1;

if (process.env['CNI_COMMAND'] === undefined) {
  process.stderr.write(`CNI plugin culvert ${CULVERT_VERSION}, for container runtimes; speaks CNI `
    + `${VERSIONS[0]} to ${LATEST}. See CNI_COMMAND in the CNI specification.\n`);
} else {
  runPlugin({
    environment: process.env,
    read: () => Promise.resolve(readFileSync(STDIN, 'utf8')),
    print: (text) => { writeSync(STDOUT, `${text}\n`); },
    version: CULVERT_VERSION,
  }).then((status) => { process.exitCode = status; }, (error: unknown) => {
    process.stderr.write(`culvert: ${String(error)}\n`);
    process.exitCode = 1;
  });
}
