// Between endpoints and policy: a pod is let in and out only once its rule sets are known, and what
// the sidecar says of policy is put into force.

import type { Log } from '../engine/log.ts';
import type { Endpoint, PolicyChange } from '../engine/model.ts';
import { PolicyTables } from '../engine/tables/policy.ts';
import { Durations } from './durations.ts';

type PodName = Pick<Endpoint, 'namespace' | 'name' | 'uid'>;

export class PolicyGate {
  readonly tables: PolicyTables;
  /** How long it took to turn policy into tables of the core. */
  readonly compiled = new Durations();
  /** True once a sidecar has spoken of policy. */
  isKnown = false;
  readonly #isClosedBefore: boolean;
  readonly #log: Log;
  readonly #devices = new Map<number, PodName>();
  /** To be called when policy has changed. */
  readonly #waiting = new Set<() => void>();

  /** `unknownPods` says what a pod may do before its policy is known. */
  constructor(tables: PolicyTables, unknownPods: 'closed' | 'open', log: Log) {
    this.tables = tables;
    this.#isClosedBefore = unknownPods === 'closed';
    this.#log = log;
  }

  /** Takes a device under control, before any packet of it is read. */
  attach(device: number, pod: PodName): void {
    this.#devices.set(device, pod);
    if (!this.isKnown && !this.#isClosedBefore) return;
    const isOpen = this.tables.attach(device, pod.namespace, pod.name, pod.uid);
    if (isOpen) return;
    const { namespace, name } = pod;
    this.#log.warn({ namespace, name }, 'pod is closed: its policy is not known yet');
  }

  detach(device: number): void {
    if (!this.#devices.delete(device)) return;
    this.#tell();
    if (this.isKnown || this.#isClosedBefore) this.tables.detach(device);
  }

  isOpen(device: number): boolean {
    return this.tables.isOpen(device);
  }

  /** Waits until a device is open. False where it still is not after `timeoutMs`, or is gone. */
  async untilOpen(device: number, timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (this.#devices.has(device) && !this.isOpen(device)) {
      const left = deadline - performance.now();
      if (left <= 0) return false;
      await this.#nextChange(left);
    }
    return this.#devices.has(device);
  }

  /** Makes `whole` all the policy there is. */
  replace(whole: PolicyChange): void {
    const startMs = performance.now();
    this.tables.replace(whole);
    this.compiled.note(startMs);
    this.#becomeKnown();
    this.#tell();
  }

  /** Puts a change into force. */
  apply(change: PolicyChange): void {
    const startMs = performance.now();
    this.tables.apply(change);
    this.compiled.note(startMs);
    this.#becomeKnown();
    this.#tell();
  }

  #nextChange(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#waiting.add(done);
    });
  }

  #tell(): void {
    for (const done of [...this.#waiting]) done();
  }

  /** From now on every pod is under control, those attached before too. */
  #becomeKnown(): void {
    if (this.isKnown) return;
    this.isKnown = true;
    for (const [device, { namespace, name, uid }] of this.#devices) {
      this.tables.attach(device, namespace, name, uid);
    }
  }
}
