// Pods that come and go by the CNI plugin: what becomes of an attachment between the plugin's words
// and the daemon's tables. docs/PODS.md draws it.
//
//     cni.add      addresses claimed on disk, interface made, pod entered in the tables, closed
//     cni.ready    the plugin has set the interface up: packets are read, and once the pod's rule
//                  sets are live (a bounded wait), the attachment is on disk as ready
//     cni.done     the runtime has been told: the attachment no longer depends on the plugin
//
// Whatever ends before `cni.done` (the plugin's connection, its time, the wait for policy) is
// undone, in whole. One attachment's words are heard one after the other; the wait for policy is
// not one of them, so that a pod can be deleted while it waits.

import { RequestError, method, type Connection, type Methods } from '../engine/connection.ts';
import { FrameReader } from '../engine/frame.ts';
import type { Log } from '../engine/log.ts';
import {
  AttachmentKeySchema, CNI_FAILURES, CniAddSchema, CniGcSchema, CniStatusSchema, endedFileName,
  type Attachment, type AttachmentKey, type CniAdd, type CniAddAnswer, type CniGc, type Endpoint,
  type InterfaceSetUp, type Pod, type PodName,
} from '../engine/model.ts';
import { podInterface } from '../engine/pod-interface.ts';
import { parseShape } from '../engine/shape.ts';
import { isUnfinished, removeFile, type Files } from './durable.ts';
import type { Endpoints } from './endpoints.ts';
import { AddressesExhaustedError, keyText, type Expectations, type Ipam } from './ipam.ts';
import type { PolicyGate } from './policy-gate.ts';

/** How long the plugin may take from `cni.add` to `cni.done`. */
export const CLAIM_LIMIT_MS = 60_000;

export interface AttachmentsOptions {
  ipam: Ipam;
  endpoints: Endpoints;
  policy: PolicyGate;
  log: Log;
  /** The node's device, whose MTU is the overlay's. */
  device: { readonly mtu: number };
  /** How long to wait for a pod's rule sets. */
  policyWaitMs: number;
  /** Notes of attachments that ended while no daemon ran. */
  ended: Files;
  /** Why pods cannot be attached now, or null. */
  reason(hasOwnIpam: boolean): string | null;
  /** What else keeps the node from being ready for pods, or null. */
  unready(): string | null;
  /** Host ports of pods are served here. */
  hasHostPorts: boolean;
  /** Whether somebody is there to tell the pods' rule sets. */
  hasSidecar(): boolean;
  /** The pods of this node as the cluster was last known to be. */
  knownPods(): Iterable<Pod>;
  /** Told when the pods that are attached have changed. */
  onChange(): void;
}

/** An attachment that the plugin is at work on. */
interface Claim {
  connection: Connection;
  timer: NodeJS.Timeout;
}

export class Attachments {
  readonly #options: AttachmentsOptions;
  readonly #claims = new Map<string, Claim>();
  /** The last word about each attachment that is being acted on. */
  readonly #queues = new Map<string, Promise<unknown>>();

  constructor(options: AttachmentsOptions) {
    this.#options = options;
  }

  /** What the runtime may have been told is attached. */
  get ready(): Attachment[] {
    return this.#options.ipam.attachments.filter(({ state }) => state === 'ready');
  }

  /** Reads from disk what was attached before this start, and gives back what has ended since. */
  open(): void {
    const { ipam, ended } = this.#options;
    ipam.open();
    for (const { name, key } of this.#notes()) {
      ipam.release(key);
      removeFile(ended, name);
    }
  }

  /** Ends what the plugin could not tell us of: it leaves a note where no daemon answers, or one
   * that is too busy to. Never rejects. */
  async takeNotes(): Promise<void> {
    const { ended, log } = this.#options;
    for (const { name, key } of this.#notes()) {
      await this.#inOrder(key, async () => {
        await this.#end(key);
        removeFile(ended, name);
      }).catch((error: unknown) => {
        log.error({ ...key, error: (error as Error).message }, 'cannot end what a note names');
      });
    }
  }

  /** The notes that can be read; others are told, and removed. */
  #notes(): { name: string; key: AttachmentKey }[] {
    const { ended, log } = this.#options;
    return ended.list().filter((name) => !isUnfinished(name)).flatMap((name) => {
      try {
        const [value] = new FrameReader().push(ended.read(name));
        const key = parseShape(AttachmentKeySchema, value, 'note');
        log.info({ ...key }, 'pod has ended without a word to us');
        return [{ name, key }];
      } catch (error) {
        log.error({ note: name, error: (error as Error).message }, 'note of an end is not used');
        removeFile(ended, name);
        return [];
      }
    });
  }

  /** The methods of control.sock. */
  methods(): Methods {
    return {
      'cni.add': method(CniAddSchema, async (add, from) => {
        await this.takeNotes();
        return this.#inOrder(add, () => this.#add(add, from));
      }),
      'cni.ready': method(AttachmentKeySchema, (key, from) => this.#ready(key, from)),
      'cni.done': method(AttachmentKeySchema, (key, from) => {
        this.#requireClaim(key, from);
        this.#forget(key);
      }),
      'cni.del': method(AttachmentKeySchema, (key) => this.#inOrder(key, () => this.#end(key))),
      'cni.check': method(AttachmentKeySchema, (key) => ({ setUp: this.#check(key) })),
      'cni.gc': method(CniGcSchema, (gc) => this.#collect(gc)),
      'cni.status': method(CniStatusSchema, async ({ hasOwnIpam }) => {
        await this.takeNotes();
        const { reason, unready, hasHostPorts } = this.#options;
        return { reason: reason(hasOwnIpam) ?? unready(), hostPorts: hasHostPorts };
      }),
    };
  }

  /** Told that a connection is over: undoes what its plugin has left half done. */
  closed(connection: Connection): void {
    for (const attachment of this.#options.ipam.attachments) {
      if (this.#claims.get(keyText(attachment))?.connection !== connection) continue;
      this.#undo(attachment, 'the plugin has gone');
    }
  }

  /** Resolves when all words have been acted on. */
  async settle(): Promise<void> {
    while (this.#queues.size > 0) await Promise.all(this.#queues.values());
  }

  /** Lets go of the plugins that are at work; their attachments are only claimed on disk. */
  close(): void {
    for (const { timer } of this.#claims.values()) clearTimeout(timer);
    this.#claims.clear();
  }

  async #add(add: CniAdd, from: Connection): Promise<CniAddAnswer> {
    const { ipam, endpoints, ended, device: { mtu }, reason, onChange } = this.#options;
    if (ipam.find(add) !== undefined) {
      throw new RequestError(CNI_FAILURES.attached, `${keyText(add)} is attached already`);
    }
    const why = reason(add.addresses === null);
    if (why !== null) throw new RequestError(CNI_FAILURES.tryAgain, why);
    await this.#endOlder(add);
    removeFile(ended, endedFileName(add));
    const { addresses: given, ...wanted } = add;
    const attachment = this.#claimAddresses({ ...wanted, mtu: add.mtu ?? mtu }, given);
    try {
      const endpoint = endpointOf(attachment);
      const device = await endpoints.prepare(endpoint);
      onChange();
      if (!from.isOpen) throw new RequestError(CNI_FAILURES.tryAgain, 'the plugin has gone');
      const timer = setTimeout(() => this.#undo(add, 'the plugin took too long'), CLAIM_LIMIT_MS);
      this.#claims.set(keyText(add), { connection: from, timer });
      return { device, setUp: podInterface(endpoint) };
    } catch (error) {
      await this.#end(add);
      throw failure(error);
    }
  }

  #claimAddresses(wanted: Omit<CniAdd, 'addresses' | 'mtu'> & { mtu: number },
    given: readonly string[] | null): Attachment {
    try {
      return this.#options.ipam.claim(wanted, given, this.#expectations(wanted.pod));
    } catch (error) {
      throw failure(error);
    }
  }

  /** What the cluster says of addresses: a pod that is attached anew, as after a reboot, gets those
   * that the cluster knows it by, since policy everywhere goes by them, and no other pod's. */
  #expectations(pod: PodName): Expectations {
    const expected: Expectations = { own: [], others: new Set() };
    for (const known of this.#options.knownPods()) {
      const isNamedSo = known.namespace === pod.namespace && known.name === pod.name;
      if ((pod.uid !== '' && known.uid === pod.uid) || isNamedSo) expected.own = known.addresses;
      else for (const address of known.addresses) expected.others.add(address);
    }
    return expected;
  }

  /** A pod has one sandbox at a time; what an earlier one has left gives way to the new one. */
  async #endOlder({ pod, containerId, interfaceName }: CniAdd): Promise<void> {
    for (const older of this.#options.ipam.attachments) {
      if (older.pod.namespace !== pod.namespace || older.pod.name !== pod.name) continue;
      if (older.containerId === containerId) {
        throw new RequestError(CNI_FAILURES.attached,
          `a pod has one interface; ${keyText(older)} is there, ${interfaceName} cannot be too`);
      }
      this.#options.log.warn({ pod, older: keyText(older) }, 'pod has a new sandbox; the old ends');
      await this.#inOrder(older, () => this.#end(older));
    }
  }

  async #ready(key: AttachmentKey, from: Connection): Promise<null> {
    const { ipam, policy, policyWaitMs, log } = this.#options;
    try {
      const device = await this.#inOrder(key, () => this.#start(key, from));
      if (!await policy.untilOpen(device, policyWaitMs)) {
        throw new RequestError(CNI_FAILURES.tryAgain, this.#closedReason(key));
      }
      await this.#inOrder(key, () => {
        const { pod, addresses } = this.#requireClaim(key, from);
        ipam.confirm(key);
        log.info({ pod, addresses }, 'pod attached');
      });
      return null;
    } catch (error) {
      if (this.#claims.get(keyText(key))?.connection === from) {
        await this.#inOrder(key, () => this.#end(key));
      }
      throw failure(error);
    }
  }

  async #start(key: AttachmentKey, from: Connection): Promise<number> {
    const { endpoints } = this.#options;
    const { pod: { namespace, name } } = this.#requireClaim(key, from);
    await endpoints.start(namespace, name);
    return endpoints.find(namespace, name)?.device ?? -1;
  }

  #closedReason(key: AttachmentKey): string {
    const { ipam, endpoints, hasSidecar, policyWaitMs } = this.#options;
    const pod = ipam.find(key)?.pod;
    const name = pod === undefined ? keyText(key) : `${pod.namespace}/${pod.name}`;
    const state = pod === undefined ? 'lost' : endpoints.find(pod.namespace, pod.name)?.state;
    if (state === 'lost') return `the interface of pod ${name} went while it was being attached`;
    const why = hasSidecar()
      ? 'the sidecar has not told them yet'
      : 'no sidecar is connected (policy.unknownPods: open would let pods run without one)';
    return `the rule sets of pod ${name} are not known after ${policyWaitMs / 1000} s: ${why}`;
  }

  #requireClaim(key: AttachmentKey, from: Connection): Attachment {
    const attachment = this.#options.ipam.find(key);
    if (attachment === undefined || this.#claims.get(keyText(key))?.connection !== from) {
      throw new RequestError(CNI_FAILURES.tryAgain, `${keyText(key)} is not being attached`);
    }
    return attachment;
  }

  /** Takes a pod off. False where there is no such attachment. */
  async #end(key: AttachmentKey): Promise<boolean> {
    const { ipam, endpoints, onChange, log } = this.#options;
    const attachment = ipam.find(key);
    this.#forget(key);
    if (attachment === undefined) return false;
    const { pod, addresses } = attachment;
    await endpoints.remove(pod.namespace, pod.name);
    ipam.release(key);
    onChange();
    log.info({ pod, addresses }, 'pod detached');
    return true;
  }

  #undo(key: AttachmentKey, why: string): void {
    this.#options.log.warn({ ...key }, `attaching is undone: ${why}`);
    this.#inOrder(key, () => this.#end(key)).catch((error: unknown) => {
      this.#options.log.error({ ...key, error: (error as Error).message }, 'cannot undo');
    });
  }

  #forget(key: AttachmentKey): void {
    clearTimeout(this.#claims.get(keyText(key))?.timer);
    this.#claims.delete(keyText(key));
  }

  #check(key: AttachmentKey): InterfaceSetUp {
    const { ipam, endpoints } = this.#options;
    const attachment = ipam.find(key);
    if (attachment?.state !== 'ready') {
      throw new RequestError(CNI_FAILURES.unknown, `${keyText(key)} is not attached`);
    }
    const { namespace, name } = attachment.pod;
    if (endpoints.find(namespace, name)?.state !== 'ready') {
      throw new RequestError(CNI_FAILURES.lost,
        `the interface of pod ${namespace}/${name} is gone`);
    }
    return podInterface(endpointOf(attachment));
  }

  /** Ends what the runtime does not know; what a plugin is at work on is not left over. */
  async #collect(gc: CniGc): Promise<null> {
    await this.takeNotes();
    for (const attachment of this.#options.ipam.leftOver(gc)) {
      if (this.#claims.has(keyText(attachment))) continue;
      this.#options.log.info({ pod: attachment.pod, key: keyText(attachment) }, 'left over; ended');
      await this.#inOrder(attachment, () => this.#end(attachment));
    }
    return null;
  }

  #inOrder<T>(key: AttachmentKey, work: () => T | Promise<T>): Promise<T> {
    const text = keyText(key);
    const result = (this.#queues.get(text) ?? Promise.resolve()).then(work);
    const settled = result.catch(() => {}).then(() => {
      if (this.#queues.get(text) === settled) this.#queues.delete(text);
    });
    this.#queues.set(text, settled);
    return result;
  }
}

/** The endpoint that an attachment is. */
export function endpointOf({ pod, interfaceName, addresses, mtu, netns }: Attachment): Endpoint {
  return { ...pod, device: 'tun', interfaceName, addresses, mtu, netns };
}

/** Every failure is the plugin's to read; a lack of addresses ends when pods do. */
function failure(error: unknown): RequestError {
  if (error instanceof RequestError) return error;
  const code = error instanceof AddressesExhaustedError ? CNI_FAILURES.tryAgain : 'attach';
  return new RequestError(code, (error as Error).message);
}
