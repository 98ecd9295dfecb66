// The CNI plugin: what each verb does. It is thin, and it is short-lived: addresses, devices and
// tables are the daemon's. What only root can do is done here: the work inside a pod's namespace.
//
// ADD: ask the daemon for an interface, set it up, ask again until the pod's rule sets are live,
// print the result, and say so. A plugin that ends anywhere before that takes its connection with
// it, by which the daemon knows to undo everything.

import * as v from 'valibot';
import {
  CniAddAnswerSchema, CniCheckAnswerSchema, CniStatusAnswerSchema, type AttachmentKey,
} from '../engine/model.ts';
import { Daemon } from './daemon.ts';
import { delegate } from './delegate.ts';
import { CODE, CniError, DaemonDownError, toCniError } from './errors.ts';
import { leaveNote, removeNote } from './note.ts';
import {
  LATEST, VERSIONS, parseText, readRequest, verbOf, type Environment, type Request,
} from './request.ts';
import { addressesIn, makeResult, parseResult } from './result.ts';

export interface PluginOptions {
  environment: Environment;
  /** All of standard input. */
  read(): Promise<string>;
  /** Writes to standard output; it is there when this returns. */
  print(text: string): void;
  /** Of this program. */
  version: string;
}

/** Does what the environment asks for. Returns the exit status. */
export async function runPlugin(options: PluginOptions): Promise<number> {
  const { environment, read, print } = options;
  let text = '';
  try {
    const verb = verbOf(environment);
    text = await read();
    if (verb === 'VERSION') {
      print(JSON.stringify({
        cniVersion: versionIn(parseText(text)) ?? LATEST, supportedVersions: VERSIONS,
      }));
    } else await serve(readRequest(verb, environment, text), options);
    return 0;
  } catch (error) {
    const { code, message, details } = toCniError(error);
    const cniVersion = versionOfText(text) ?? LATEST;
    const more = details === '' ? {} : { details };
    print(JSON.stringify({ cniVersion, code, msg: message, ...more }));
    return 1;
  }
}

function versionOfText(text: string): string | null {
  try {
    return versionIn(parseText(text));
  } catch {
    return null;
  }
}

function versionIn({ cniVersion }: Record<string, unknown>): string | null {
  return typeof cniVersion === 'string' && cniVersion !== '' ? cniVersion : null;
}

function serve(request: Request, options: PluginOptions): Promise<void> {
  switch (request.verb) {
    case 'ADD': return add(request, options);
    case 'DEL': return remove(request, options);
    case 'CHECK': return check(request, options);
    case 'GC': return collect(request, options);
    default: return tellStatus(request, options);
  }
}

function keyOf({ containerId, interfaceName }: Request): AttachmentKey {
  return { containerId, interfaceName };
}

function connect({ config }: Request, { version }: PluginOptions): Promise<Daemon> {
  return Daemon.connect(config.runtimeDirectory, version);
}

async function add(request: Request, options: PluginOptions): Promise<void> {
  const { config, interfaceName, netns } = request;
  const before = parseResult(config.prevResult ?? {}, 'prevResult');
  if (addressesIn(before, interfaceName, netns) !== null) {
    throw new CniError(CODE.invalidConfig, `a plugin before culvert has made ${interfaceName}`);
  }
  const daemon = await connect(request, options);
  const isDelegated = config.ipam.type !== '';
  try {
    await refuseHostPorts(request, daemon);
  } catch (error) {
    daemon.close();
    throw error;
  }
  if (isDelegated) await refuseAttached(request, daemon);
  try {
    const given = isDelegated ? await delegate(request, 'ADD') : null;
    await attach(request, daemon, options, given === null
      ? { addresses: null, dns: config.dns }
      : { addresses: given.ips.map(({ address }) => address.split('/')[0] ?? ''),
        dns: given.dns ?? config.dns });
  } catch (error) {
    if (isDelegated) await delegate(request, 'DEL').catch(() => {});
    throw error;
  } finally {
    daemon.close();
  }
}

/** Host ports that nobody serves are refused before anything is done. */
async function refuseHostPorts(
  { config: { ipam, runtimeConfig } }: Request, daemon: Daemon,
): Promise<void> {
  if ((runtimeConfig.portMappings ?? []).length === 0) return;
  const hasOwnIpam = ipam.type === '';
  const { hostPorts } = await daemon.ask('cni.status', { hasOwnIpam }, CniStatusAnswerSchema);
  if (hostPorts) return;
  throw new CniError(CODE.unsupportedField,
    'nobody serves hostPort here: set nodePorts.enabled, or chain the portmap plugin behind '
    + 'culvert (culvert cni install --portmap)', 'runtimeConfig.portMappings');
}

/** Before another IPAM plugin is asked: undoing a second ADD there would undo the first too. */
async function refuseAttached(request: Request, daemon: Daemon): Promise<void> {
  try {
    await daemon.ask('cni.check', keyOf(request), CniCheckAnswerSchema);
  } catch (error) {
    if (error instanceof CniError && error.code === CODE.unknownContainer) return;
    daemon.close();
    throw error;
  }
  daemon.close();
  throw new CniError(CODE.alreadyAttached, `${request.containerId} is attached already`);
}

async function attach(
  request: Request, daemon: Daemon, { print }: PluginOptions,
  { addresses, dns }: { addresses: string[] | null; dns: object },
): Promise<void> {
  const { config: { name: network, mtu }, netns, pod } = request;
  const key = keyOf(request);
  const wanted = { ...key, network, netns, pod, mtu: mtu === 0 ? null : mtu, addresses };
  // What makes system calls is loaded while the daemon is at work.
  const loading = loadInterface();
  loading.catch(() => {});
  const { device, setUp } = await daemon.ask('cni.add', wanted, CniAddAnswerSchema);
  try {
    const { attachInterface } = await loading;
    await attachInterface(device, netns, setUp);
    await daemon.ask('cni.ready', key, v.null());
  } catch (error) {
    await daemon.ask('cni.del', key, v.boolean()).catch(() => {});
    throw error;
  }
  print(JSON.stringify(makeResult(request, setUp, dns)));
  // A daemon that has gone meanwhile has the attachment on disk.
  await daemon.ask('cni.done', key, v.null()).catch(() => {});
}

async function remove(request: Request, options: PluginOptions): Promise<void> {
  const { config: { runtimeDirectory, ipam }, interfaceName, netns } = request;
  const key = keyOf(request);
  if (ipam.type !== '') await delegate(request, 'DEL');
  if (await tryRemove(request, options)) return;
  if (netns !== '') {
    const { removeInterface } = await loadInterface();
    await removeInterface(netns, interfaceName);
  }
  leaveNote(runtimeDirectory, key);
  // A daemon that has started meanwhile may have looked for notes before this one was there.
  if (await tryRemove(request, options)) removeNote(runtimeDirectory, key);
}

/** Loads what makes system calls; native, and so not part of the bundle. */
async function loadInterface(): Promise<typeof import('./interface.ts')> {
  try {
    return await import('./interface.ts');
  } catch (error) {
    throw new CniError(CODE.attachFailed,
      'the package that this plugin was installed from cannot be loaded; run `culvert cni install`',
      (error as Error).message);
  }
}

/** False where no daemon answers. */
async function tryRemove(request: Request, options: PluginOptions): Promise<boolean> {
  try {
    const daemon = await connect(request, options);
    try {
      await daemon.ask('cni.del', keyOf(request), v.boolean());
    } finally {
      daemon.close();
    }
    return true;
  } catch (error) {
    if (error instanceof DaemonDownError) return false;
    throw error;
  }
}

async function check(request: Request, options: PluginOptions): Promise<void> {
  const { config: { prevResult, ipam }, interfaceName, netns } = request;
  if (prevResult === undefined) throw new CniError(CODE.invalidConfig, 'prevResult: missing');
  const promised = addressesIn(parseResult(prevResult, 'prevResult'), interfaceName, netns);
  if (promised === null) {
    throw new CniError(CODE.invalidConfig, `prevResult has no ${interfaceName} in ${netns}`);
  }
  if (ipam.type !== '') await delegate(request, 'CHECK');
  const daemon = await connect(request, options);
  try {
    const { setUp } = await daemon.ask('cni.check', keyOf(request), CniCheckAnswerSchema);
    const wrong = promised.find((address) => !setUp.addresses.includes(address));
    if (wrong !== undefined) {
      throw new CniError(CODE.checkFailed,
        `prevResult has the address ${wrong}, the daemon ${setUp.addresses.join(', ')}`);
    }
    const { checkInterface } = await loadInterface();
    await checkInterface(netns, setUp);
  } finally {
    daemon.close();
  }
}

async function collect(request: Request, options: PluginOptions): Promise<void> {
  const { config } = request;
  const named = config['cni.dev/valid-attachments'];
  if (named === undefined) {
    throw new CniError(CODE.invalidConfig, 'cni.dev/valid-attachments: missing');
  }
  if (config.ipam.type !== '') await delegate(request, 'GC');
  const daemon = await connect(request, options);
  try {
    const valid = named.map(({ containerID, ifname }) =>
      ({ containerId: containerID, interfaceName: ifname }));
    await daemon.ask('cni.gc', { network: config.name, valid }, v.null());
  } finally {
    daemon.close();
  }
}

async function tellStatus(request: Request, options: PluginOptions): Promise<void> {
  const hasOwnIpam = request.config.ipam.type === '';
  if (!hasOwnIpam) await delegate(request, 'STATUS');
  try {
    const daemon = await connect(request, options);
    try {
      const { reason } = await daemon.ask('cni.status', { hasOwnIpam }, CniStatusAnswerSchema);
      if (reason !== null) throw new CniError(CODE.unavailable, reason);
    } finally {
      daemon.close();
    }
  } catch (error) {
    if (!(error instanceof DaemonDownError)) throw error;
    throw new CniError(CODE.unavailable, error.message);
  }
}
