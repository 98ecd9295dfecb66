// Short traffic of a soak, each piece of which is answered in time and rightly, or is a fault:
// pings, connections and datagrams to a Service and to pods, and uploads whose digest is compared.
// What begins or ends while the network is being disturbed is told apart.

import { nodeAddress, podAddress } from '../netns/support/forge-cluster.ts';
import { FAMILIES } from '../netns/support/kube-scene.ts';
import { serviceAddress } from '../netns/support/service-scene.ts';
import { GATE_PORT, SERVICE_PORTS, type SoakScene } from './scene.ts';

const PING_PAUSE_MS = 100;
const FLOW_PAUSE_MS = 150;
const UPLOAD_PAUSE_MS = 2000;
const UPLOAD_BYTES = 1 << 20;
const PING_TIMEOUT_MS = 5000;
const FLOW_TIMEOUT_MS = 10_000;
const SERVICE_NUMBER = 80;
const FAULTS_KEPT = 20;

/** A ping's way there and back, and that of a datagram between programs on the two nodes right
 * after it, which Culvert has no part in: it says how busy the machine is. */
export interface Ping {
  atMs: number;
  ms: number;
  controlMs: number;
  isDisturbed: boolean;
}

export class Probes {
  readonly pings: Ping[] = [];
  readonly counts = { pings: 0, flows: 0, uploads: 0, lostInDisturbance: 0 };
  readonly faults: string[] = [];
  readonly #scene: SoakScene;
  readonly #loops: Promise<void>[] = [];
  #isOver = false;
  /** Kills that are not over, and when the last one was. */
  #disturbances = 0;
  #calmSinceMs = 0;

  constructor(scene: SoakScene) {
    this.#scene = scene;
  }

  start(): void {
    this.#loops.push(
      this.#loop(PING_PAUSE_MS, () => this.#ping(this.counts.pings)),
      this.#loop(FLOW_PAUSE_MS, () => this.#flow(this.counts.flows)),
      this.#loop(UPLOAD_PAUSE_MS, () => this.#upload()));
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#loops);
  }

  /** Does something that packets may be lost by. */
  async disturb(work: () => Promise<void>): Promise<void> {
    this.#disturbances += 1;
    try {
      await work();
    } finally {
      this.#disturbances -= 1;
      this.#calmSinceMs = performance.now();
    }
  }

  /** Notes what should not have been. */
  blame(fault: string): void {
    if (this.faults.length < FAULTS_KEPT) this.faults.push(fault);
  }

  async #loop(pauseMs: number, probe: () => Promise<void>): Promise<void> {
    while (!this.#isOver) {
      const startMs = performance.now();
      const wasDisturbed = this.#disturbances > 0;
      try {
        await probe();
      } catch (error) {
        const isDisturbed = wasDisturbed || this.#disturbances > 0 || this.#calmSinceMs > startMs;
        if (isDisturbed) this.counts.lostInDisturbance += 1;
        else this.blame((error as Error).message);
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  }

  async #ping(turn: number): Promise<void> {
    const family = FAMILIES[turn % 2] ?? 'IPv4';
    const wasDisturbed = this.#disturbances > 0;
    const startMs = performance.now();
    const { ok, detail, elapsedMs } = await this.#scene.pod(3, 11).host.agent.ask({
      verb: 'ping', address: podAddress(2, 10, family), size: 56, timeoutMs: PING_TIMEOUT_MS,
    });
    this.counts.pings += 1;
    if (!ok) throw new Error(`ping over ${family}: ${detail}`);
    const control = await this.#scene.killed.host.agent.ask({
      verb: 'udp', address: nodeAddress(2, 'IPv4'), size: 56, timeoutMs: PING_TIMEOUT_MS,
    });
    if (!control.ok) throw new Error(`between the nodes: ${control.detail}`);
    const isDisturbed = wasDisturbed || this.#disturbances > 0 || this.#calmSinceMs > startMs;
    this.pings.push({ atMs: startMs, ms: elapsedMs, controlMs: control.elapsedMs, isDisturbed });
  }

  /** A connection or a question of its own, to the Service or to a pod. */
  async #flow(turn: number): Promise<void> {
    const family = FAMILIES[turn % 2] ?? 'IPv4';
    const lines = this.#scene.linesOf(3, 12);
    const service = serviceAddress(SERVICE_NUMBER, family);
    this.counts.flows += 1;
    const kind = (turn >> 1) % 3;
    if (kind === 0) await lines.who(service, SERVICE_PORTS.web, FLOW_TIMEOUT_MS);
    else if (kind === 1) await lines.datagram(service, SERVICE_PORTS.dns, FLOW_TIMEOUT_MS);
    else await lines.who(podAddress(2, 12, family), GATE_PORT, FLOW_TIMEOUT_MS);
  }

  async #upload(): Promise<void> {
    const { ok, detail } = await this.#scene.pod(3, 12).host.agent.ask({
      verb: 'upload', address: podAddress(2, 10, 'IPv4'), bytes: UPLOAD_BYTES,
      timeoutMs: FLOW_TIMEOUT_MS,
    });
    this.counts.uploads += 1;
    if (!ok) throw new Error(`upload: ${detail}`);
  }
}
