// What a soak does to the nodes, one thing after the other, again and again: pods come and go, a
// policy closes and opens a gate, a Service loses and gets back a backend, the sidecar is ended and
// killed, the configuration is read again, the daemon is killed or restarted. Each sees to it that
// what it did is in force.

import type { Host } from '../../cli/demo/bed.ts';
import { podAddress, podAddresses, podName } from '../netns/support/forge-cluster.ts';
import { kill, mustReach, reaches, type Place } from '../netns/support/forge-scene.ts';
import type { Probes } from './probes.ts';
import { GATE_PORT, type SoakScene } from './scene.ts';

const COMING_POD = 13;
const OPEN_TIMEOUT_MS = 10_000;
/** So long a closed gate is knocked at. */
const CLOSED_TIMEOUT_MS = 500;

export interface Action {
  name: string;
  run(): Promise<void>;
}

/** The actions of one cycle, in order. `beforeEnd` is run while the daemon still answers. */
export function soakActions(
  scene: SoakScene, probes: Probes, beforeEnd: () => Promise<void>,
): Action[] {
  const { killed, lasting } = scene;
  const hosts = new Map<Place, Host>(scene.places.map((place) =>
    [place, scene.bed.addHost(podName(place.n, COMING_POD))]));
  const comeAndGo = (place: Place) => async (): Promise<void> =>
    churnPod(scene, place, hosts.get(place));
  const action = (name: string, run: () => Promise<void>): Action => ({ name, run });
  return [
    action('a pod of the killed node', comeAndGo(killed)),
    action('the gate closes', () => gate(scene, probes, false)),
    action('a backend leaves', () => scene.say({ backends: [10, 11] })),
    action('the daemon is killed', async () => {
      await beforeEnd();
      await probes.disturb(() => renewDaemon(killed, 'SIGKILL'));
    }),
    action('a pod of the lasting node', comeAndGo(lasting)),
    action('the gate opens', () => gate(scene, probes, true)),
    action('a backend comes back', () => scene.say({ backends: [10, 11, 12] })),
    action('the sidecar is ended', () => renewSidecar(killed, 'SIGTERM')),
    action('the configuration is read again', async () => {
      for (const { daemon } of scene.places) daemon.process.kill('SIGHUP');
    }),
    action('the sidecar is killed', () => renewSidecar(killed, 'SIGKILL')),
    // Only a manager knows of a daemon that ends in peace that another one follows.
    ...scene.manager === null ? [] : [action('the daemon is restarted', async () => {
      await beforeEnd();
      await probes.disturb(() => renewDaemon(killed, 'SIGTERM'));
    })],
  ];
}

/** A pod comes, reaches others, goes, and is reached no more. */
async function churnPod(scene: SoakScene, place: Place, host: Host | undefined): Promise<void> {
  const other = place === scene.killed ? scene.lasting : scene.killed;
  await place.addPod(COMING_POD, undefined, host);
  const from = scene.pod(other.n, 11).host;
  await mustReach(from, podAddresses(place.n, COMING_POD));
  await place.culvert.removePod('test', podName(place.n, COMING_POD));
  if (await reaches(from, podAddress(place.n, COMING_POD, 'IPv4'))) {
    throw new Error('a pod that is gone answers');
  }
}

async function gate(scene: SoakScene, probes: Probes, isOpen: boolean): Promise<void> {
  await scene.say({ isGateOpen: isOpen });
  const timeoutMs = isOpen ? OPEN_TIMEOUT_MS : CLOSED_TIMEOUT_MS;
  const passed = await scene.linesOf(2, 11)
    .who(podAddress(3, 11, 'IPv4'), GATE_PORT, timeoutMs).then(() => true, () => false);
  if (passed !== isOpen) probes.blame(`a gate ${isOpen ? 'opened' : 'closed'} is not`);
}

async function renewDaemon({ daemon, culvert }: Place, signal: NodeJS.Signals): Promise<void> {
  await kill(daemon, signal);
  await culvert.startDaemon();
  await culvert.waitFor(({ sync }) => sync.connected && sync.revision !== null);
}

async function renewSidecar({ sidecar, culvert }: Place, signal: NodeJS.Signals): Promise<void> {
  await kill(sidecar, signal);
  await culvert.startSidecar();
  await culvert.waitFor(({ sync }) => sync.connected && sync.revision !== null);
}
