// A worker thread that enters a namespace and tells where its calls run.

import { readlinkSync } from 'node:fs';
import { readlink } from 'node:fs/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { Namespace } from '../../ffi/netns.ts';

const OWN = '/proc/thread-self/ns/net';
const { fd } = workerData as { fd: number };
if (fd >= 0) new Namespace(fd).enter();
parentPort?.postMessage({ thread: readlinkSync(OWN), pool: await readlink(OWN) });
