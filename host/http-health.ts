// Whether the daemon lives, and whether it is ready for pods. It lives while its main thread
// answers and its data workers turn over; it is ready while pods can be attached and reached. What
// only the sidecar or the API server lacks does not make it unready: the last known state goes on.

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Core } from '../engine/core.ts';
import { METRICS_CONTENT_TYPE } from '../engine/exposition.ts';
import { workerTurns } from '../engine/tables/grace.ts';
import { checksAnswer, HttpServer, type Check } from './http.ts';
import { WAIT_MS } from './loop.ts';
import type { Host } from './main.ts';

/** A worker that waits for packets turns over each WAIT_MS; one that has not for so long is
 * stuck. */
const BEAT_LIMIT_MS = WAIT_MS * 10;
const BEAT_STEP_MS = 20;

/** Resolves to the workers that did not end or begin a turn in time, as numbers. */
export async function stuckWorkers(core: Core, limitMs = BEAT_LIMIT_MS): Promise<number[]> {
  const before = workerTurns(core);
  const end = performance.now() + limitMs;
  for (;;) {
    const now = workerTurns(core);
    const stuck = before.flatMap((turn, worker) => (turn === now[worker] ? [worker] : []));
    if (stuck.length === 0 || performance.now() >= end) return stuck;
    await sleep(BEAT_STEP_MS);
  }
}

/** Does the process do its work. */
export async function liveChecks(host: Host): Promise<Check[]> {
  const stuck = await stuckWorkers(host.core);
  return [
    check('main-thread', true, ''),
    check('data-plane', stuck.length === 0,
      stuck.length === 0 ? '' : `worker ${stuck.join(', ')} does not turn over`),
  ];
}

/** Can pods be attached, and reached. */
export function readyChecks(host: Host): Check[] {
  const { options: { config }, dataPlane, forwarding, policy } = host;
  const networks = forwarding.local?.podCidrs ?? [];
  const isPolicyKnown = policy.isKnown || config.policy.unknownPods === 'open';
  const file = config.subnetEnv;
  return [
    check('data-plane', dataPlane.isRunning, dataPlane.isRunning ? '' : 'a worker is away'),
    check('tun', !host.isNodeDeviceLost,
      host.isNodeDeviceLost ? `${config.device.name} was deleted and is being made again` : ''),
    check('cluster', networks.length > 0, networks.length > 0 ? networks.join(', ')
      : 'the pod networks of this node are not known: no sidecar has told them'),
    check('policy', isPolicyKnown, isPolicyKnown ? '' : 'no sidecar has told policy'),
    ...file === '' ? [] : [check('subnet-env', existsSync(file), file)],
  ];
}

/** Why `culvert-cni` is to say that pods had better wait, or null. Where another plugin gives out
 * addresses the pod networks need not be known. */
export function unreadyReason(host: Host): string | null {
  const lacking = readyChecks(host).find(({ name, isWell }) => !isWell && name !== 'cluster');
  return lacking === undefined ? null : `${lacking.name}: ${lacking.detail}`;
}

function check(name: string, isWell: boolean, detail: string): Check {
  return { name, isWell, detail };
}

/** The server of a daemon; null where it is to have none. */
export function httpServer(host: Host): HttpServer | null {
  const { config: { http: { address, port } }, log } = host.options;
  if (port === null) return null;
  return new HttpServer({
    address, port, log,
    routes: {
      '/metrics': async () => ({
        status: 200, type: METRICS_CONTENT_TYPE, text: await host.metrics.text(),
      }),
      '/healthz': async (query) => checksAnswer(await liveChecks(host), query),
      '/readyz': (query) => checksAnswer(readyChecks(host), query),
    },
  });
}
