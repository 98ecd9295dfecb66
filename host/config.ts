// The daemon's configuration: flags over CULVERT_* variables over the file over defaults. Each
// source is checked by itself, so that an error names the place to mend: file and line, variable,
// or flag.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import * as v from 'valibot';
import type * as Yaml from 'yaml';
import type { Document } from 'yaml';
import { WORKER_LIMIT } from '../wasm/abi/layout.ts';
import { isAddress, isPrefix } from '../engine/address.ts';
import type { ProfileName } from '../engine/memory-map.ts';
import { FLANNEL_VXLAN_PORT, NetConfError, parseNetConf } from '../engine/net-conf.ts';
import { fieldPath, issuePath, issueReason } from '../engine/shape.ts';
import type { FaultOptions } from './device/fault.ts';
import { isPortRange } from './node-ports/plan.ts';
import { TIERS, type TierName } from './tier-names.ts';

/** What every host takes in fragments, RFC 791 section 3.1: the least that is taken for an MTU of
 * the underlay, and of a path in it. */
export const IPV4_MTU_MIN = 576;

export interface HostConfig {
  nodeName: string;
  /** flannel's net-conf.json, for `podNetworks`, `underlay.port` and `underlay.mtu` where these are
   * not set themselves; empty for none. */
  netConf: string;
  /** Networks of all pods of the cluster; the node routes them to its device. */
  podNetworks: string[];
  /** Where Services have their addresses: the node reaches them through its device. */
  serviceNetworks: string[];
  services: {
    /** Off, packets for Services go where routes lead them. */
    enabled: boolean;
    /** What packets for a Service without backends get: port unreachable, or silence. */
    empty: 'reject' | 'drop';
  };
  /** Node ports of Services and host ports of pods, by a proxy in this process. */
  nodePorts: {
    enabled: boolean;
    /** The node's addresses to listen at; none stands for the underlay's. */
    addresses: string[];
    /** Where node ports of Services may be, as FIRST-LAST. Host ports may be anywhere. */
    range: string;
  };
  underlay: {
    /** Local addresses to tunnel from, one per family; or the interface that has them. */
    addresses: string[];
    interface: string;
    port: number;
    /** MTU of the link; 0 takes the interface's. */
    mtu: number;
    /** Probe what the paths to peers take, and hold packets to it. */
    pathMtu: boolean;
    /** Sending sockets per family. */
    sendSockets: number;
    /** Take inner checksums that a peer's kernel left to a device which never finished them. */
    takeUnfinished: boolean;
  };
  device: { name: string; keep: boolean };
  dataPlane: {
    /** How super-packets are used (tier.ts); `auto` takes the best that needs no set-up. */
    tier: TierName | 'auto';
    /** Data workers, each a thread; 0 takes half of the machine's processors, at least one, or as
     * many as there were where devices are left by an earlier daemon. */
    workers: number;
    /** TAP towards the node's own stack, for tier T3. */
    tunnelDevice: string;
  };
  /** Metrics and health checks, over HTTP; the port null for none. */
  http: { address: string; port: number | null };
  handover: {
    /** Leaves devices, sockets and connections to the next daemon when this one is killed. */
    enabled: boolean;
    /** How long they wait for it; 0: for ever while there are pods. */
    awaySeconds: number;
  };
  runtimeDirectory: string;
  /** Folder on a disk that keeps the cluster as it was last known over a reboot; empty for none.
   * `auto` is /var/lib/culvert, and none where the runtime directory is not the usual one. */
  stateDirectory: string;
  /** Group that may use sync.sock, and the sidecar's uid; -1 for the daemon's own. */
  syncGroup: number;
  syncUid: number;
  /** The user of this machine that stands for both; empty for none. */
  syncUser: string;
  memory: ProfileName;
  /** Hold the MSS that TCP names in tunnelled connections to what the tunnel takes. */
  mssClamp: boolean;
  /** ICMP errors per second and origin. */
  icmp: { rate: number; burst: number };
  policy: {
    /** What a pod may do before its policy is known: nothing, or everything. */
    unknownPods: 'closed' | 'open';
    /** Answer denied packets with "administratively prohibited" instead of silence. */
    denyWithIcmp: boolean;
  };
  cni: {
    /** This node's pod networks until a sidecar tells them, or where there is none. */
    podCidrs: string[];
    /** How long attaching a pod waits for its rule sets. */
    policyWaitSeconds: number;
  };
  /** File for flannel's CNI plugin (subnet-env.ts), `/run/flannel/subnet.env`; empty for none. */
  subnetEnv: string;
  logLevel: 'debug' | 'info' | 'warn' | 'error';
  debug: {
    /** Folder that gets one pcap file per device and worker; empty for none. */
    pcap: string;
    fault: FaultOptions;
  };
}

const RUNTIME_DIRECTORY = '/run/culvert';
const STATE_DIRECTORY = '/var/lib/culvert';

export const DEFAULTS: HostConfig = {
  nodeName: '',
  netConf: '',
  podNetworks: ['10.244.0.0/16'],
  serviceNetworks: [],
  services: { enabled: true, empty: 'reject' },
  nodePorts: { enabled: false, addresses: [], range: '30000-32767' },
  underlay: {
    addresses: [], interface: '', port: FLANNEL_VXLAN_PORT, mtu: 0, pathMtu: true, sendSockets: 16,
    takeUnfinished: false,
  },
  device: { name: 'culvert0', keep: false },
  dataPlane: { tier: 'auto', workers: 0, tunnelDevice: 'culvert-t3' },
  http: { address: '127.0.0.1', port: 9478 },
  handover: { enabled: true, awaySeconds: 0 },
  runtimeDirectory: RUNTIME_DIRECTORY,
  stateDirectory: 'auto',
  syncGroup: -1,
  syncUid: -1,
  syncUser: '',
  memory: 'standard',
  mssClamp: false,
  icmp: { rate: 100, burst: 50 },
  policy: { unknownPods: 'closed', denyWithIcmp: false },
  cni: { podCidrs: [], policyWaitSeconds: 10 },
  subnetEnv: '',
  logLevel: 'info',
  debug: {
    pcap: '',
    fault: { seed: 1, drop: 0, corrupt: 0, duplicate: 0, reorder: 0, crashAfter: 0 },
  },
};

const integer = (least: number, most: number) =>
  v.optional(v.pipe(v.number(), v.integer(), v.minValue(least), v.maxValue(most)));
const text = v.optional(v.string());
const probability = v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1)));
const prefixes = v.array(v.pipe(v.string(), v.check(isPrefix, 'not a prefix in CIDR form')));
const addresses = v.array(v.pipe(v.string(), v.check(isAddress, 'not an IP address')));
const interfaceName = v.optional(
  v.pipe(v.string(), v.regex(/^[A-Za-z0-9_.-]{1,15}$/, 'not an interface name')));

/** What a source may say: any part of HostConfig. */
const SourceSchema = v.strictObject({
  nodeName: v.optional(v.pipe(v.string(), v.minLength(1), v.maxLength(253))),
  netConf: text,
  podNetworks: v.optional(prefixes),
  serviceNetworks: v.optional(prefixes),
  services: v.optional(v.strictObject({
    enabled: v.optional(v.boolean()), empty: v.optional(v.picklist(['reject', 'drop'])),
  })),
  nodePorts: v.optional(v.strictObject({
    enabled: v.optional(v.boolean()),
    addresses: v.optional(addresses),
    range: v.optional(v.pipe(v.string(), v.check(isPortRange, 'not a range as 30000-32767'))),
  })),
  underlay: v.optional(v.strictObject({
    addresses: v.optional(addresses),
    interface: interfaceName,
    port: integer(1, 65535),
    mtu: v.optional(v.pipe(
      v.number(), v.integer(), v.check(isMtu, `not 0 or ${IPV4_MTU_MIN} to 65535`))),
    pathMtu: v.optional(v.boolean()),
    sendSockets: integer(1, 64),
    takeUnfinished: v.optional(v.boolean()),
  })),
  device: v.optional(v.strictObject({ name: interfaceName, keep: v.optional(v.boolean()) })),
  dataPlane: v.optional(v.strictObject({
    tier: v.optional(v.picklist(['auto', ...TIERS])),
    workers: integer(0, WORKER_LIMIT),
    tunnelDevice: interfaceName,
  })),
  http: v.optional(v.strictObject({
    address: v.optional(v.pipe(v.string(), v.check(isAddress, 'not an IP address'))),
    port: v.optional(v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1),
      v.maxValue(65535)))),
  })),
  handover: v.optional(v.strictObject({
    enabled: v.optional(v.boolean()),
    awaySeconds: integer(0, 1_000_000),
  })),
  runtimeDirectory: text,
  stateDirectory: text,
  syncGroup: integer(-1, 0x7fffffff),
  syncUid: integer(-1, 0x7fffffff),
  syncUser: text,
  memory: v.optional(v.picklist(['small', 'standard', 'full'])),
  mssClamp: v.optional(v.boolean()),
  icmp: v.optional(v.strictObject({ rate: integer(0, 1_000_000), burst: integer(0, 100_000) })),
  policy: v.optional(v.strictObject({
    unknownPods: v.optional(v.picklist(['closed', 'open'])),
    denyWithIcmp: v.optional(v.boolean()),
  })),
  cni: v.optional(v.strictObject({
    podCidrs: v.optional(prefixes), policyWaitSeconds: integer(0, 120),
  })),
  subnetEnv: text,
  logLevel: v.optional(v.picklist(['debug', 'info', 'warn', 'error'])),
  debug: v.optional(v.strictObject({
    pcap: text,
    fault: v.optional(v.strictObject({
      seed: integer(0, 0x7fffffff),
      drop: probability,
      corrupt: probability,
      duplicate: probability,
      reorder: probability,
      crashAfter: integer(0, 0x7fffffff),
    })),
  })),
});

/** A tree of settings as a source gives it. */
export interface Settings {
  [name: string]: unknown;
}

/** Bad configuration; the message names source, place and field. */
export class ConfigError extends Error {
  override name = 'ConfigError';
}

function isMtu(value: number): boolean {
  return value === 0 || (value >= IPV4_MTU_MIN && value <= 65535);
}

/** Reads all sources and puts them together. `file` is null where there is none to read. */
export function loadConfig(
  file: string | null,
  environment: Readonly<Record<string, string | undefined>>,
  flags: Settings,
): HostConfig {
  const sources = [
    file === null ? {} : readConfigFile(file),
    check(fromEnvironment(environment), (path) => environmentName(path)),
    check(flags, (path) => flagName(path)),
  ];
  const defaults = DEFAULTS as unknown as Settings;
  const { netConf } = sources.reduce<Settings>(merge, defaults);
  const cluster = typeof netConf === 'string' && netConf !== '' ? readNetConf(netConf) : {};
  const config = [cluster, ...sources].reduce<Settings>(merge, defaults);
  return complete(config as unknown as HostConfig);
}

/** What flannel's configuration of the cluster says of a node. */
function readNetConf(file: string): Settings {
  const text = readText(file);
  try {
    const { podNetworks, type, port, linkMtu } = parseNetConf(text, file);
    // Tunnels of other types say their port themselves.
    const underlay = type === 'vxlan' ? { port } : {};
    return { podNetworks, underlay: { ...underlay, ...(linkMtu === 0 ? {} : { mtu: linkMtu }) } };
  } catch (error) {
    if (error instanceof NetConfError) throw new ConfigError(error.message);
    throw error;
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new ConfigError(`read ${file}: ${(error as NodeJS.ErrnoException).code ?? 'failed'}`);
  }
}

function complete(config: HostConfig): HostConfig {
  if (config.nodeName === '') throw new ConfigError(missing(['nodeName']));
  if (config.underlay.addresses.length === 0 && config.underlay.interface === '') {
    throw new ConfigError(missing(['underlay', 'interface']));
  }
  return { ...config, stateDirectory: stateDirectory(config) };
}

/** Two daemons of one machine must not share a state. */
function stateDirectory({ stateDirectory: given, runtimeDirectory }: HostConfig): string {
  if (given !== 'auto') return given;
  return runtimeDirectory === RUNTIME_DIRECTORY ? STATE_DIRECTORY : '';
}

function missing(path: string[]): string {
  return `${path.join('.')}: missing; set it in the file, as ${environmentName(path)} `
    + `or with ${flagName(path)}`;
}

/** Reads and checks a YAML or JSON file. Errors are `FILE:LINE: FIELD: REASON`. */
export function readConfigFile(file: string): Settings {
  const source = readText(file);
  const { LineCounter, parseDocument } = yaml();
  const lines = new LineCounter();
  const document = parseDocument(source, { lineCounter: lines, prettyErrors: false });
  const [fault] = document.errors;
  if (fault !== undefined) {
    const { line } = lines.linePos(fault.pos[0]);
    throw new ConfigError(`${file}:${line}: ${fault.message.split('\n')[0] ?? 'not YAML'}`);
  }
  const value: unknown = document.toJS() ?? {};
  return check(value, (path) => {
    const { line } = lines.linePos(offsetOf(document, path));
    return [`${file}:${line}`, fieldPath(path)].filter((part) => part !== '').join(': ');
  });
}

/** The parser, which takes longer to load than all the rest of a daemon without a file needs. */
function yaml(): typeof Yaml {
  return createRequire(import.meta.url)('yaml') as typeof Yaml;
}

/** Where in the text a field stands: its key, or the item of a list. */
function offsetOf(document: Document, path: readonly (string | number)[]): number {
  const { isMap, isScalar, isSeq } = yaml();
  let node: unknown = document.contents;
  let offset = 0;
  for (const step of path) {
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && key.value === step);
      offset = (isScalar(pair?.key) ? pair.key.range?.[0] : undefined) ?? offset;
      node = pair?.value;
    } else if (isSeq(node)) {
      node = node.get(Number(step), true);
      offset = (node as { range?: [number, number, number] } | undefined)?.range?.[0] ?? offset;
    }
  }
  return offset;
}

/** Checks one source; `where` names a field of it in the source's own words. */
function check(value: unknown, where: (path: (string | number)[]) => string): Settings {
  const result = v.safeParse(SourceSchema, value, { abortEarly: true });
  if (result.success) return result.output as unknown as Settings;
  const [issue] = result.issues;
  throw new ConfigError(`${where(issuePath(issue))}: ${issueReason(issue)}`);
}

/** `underlay.sendSockets` is CULVERT_UNDERLAY_SEND_SOCKETS. */
export function environmentName(path: readonly (string | number)[]): string {
  const words = names(path).map((name) => name.replace(/[A-Z]/g, (letter) => `_${letter}`));
  return `CULVERT_${words.join('_').toUpperCase()}`;
}

/** `underlay.sendSockets` is --underlay-send-sockets. */
export function flagName(path: readonly (string | number)[]): string {
  const words = names(path).map((name) =>
    name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`));
  return `--${words.join('-')}`;
}

function names(path: readonly (string | number)[]): string[] {
  return path.filter((step) => typeof step === 'string');
}

/** Every setting that has a variable and a flag: a path and an example of its type. */
export function settingPaths(tree: object = DEFAULTS, above: string[] = []): SettingPath[] {
  return Object.entries(tree).flatMap(([name, value]: [string, unknown]): SettingPath[] => {
    const path = [...above, name];
    const isBranch = typeof value === 'object' && value !== null && !Array.isArray(value);
    return isBranch ? settingPaths(value, path) : [{ path, example: value }];
  });
}

export interface SettingPath {
  path: string[];
  example: unknown;
}

function fromEnvironment(environment: Readonly<Record<string, string | undefined>>): Settings {
  const settings: Settings = {};
  for (const { path, example } of settingPaths()) {
    const given = environment[environmentName(path)];
    if (given !== undefined) setAt(settings, path, fromText(given, example));
  }
  return settings;
}

/** Text to the type of the example; what does not fit stays text, and fails the check by name. */
export function fromText(given: string, example: unknown): unknown {
  if (Array.isArray(example)) return given.split(',').map((part) => part.trim()).filter(Boolean);
  if (given === 'null' && typeof example === 'number') return null;
  if (typeof example === 'boolean' && /^(true|false)$/.test(given)) return given === 'true';
  if (typeof example === 'number' && given.trim() !== '' && !Number.isNaN(Number(given))) {
    return Number(given);
  }
  return given;
}

/** Sets a value deep in a tree of settings. */
export function setAt(settings: Settings, path: string[], value: unknown): void {
  const [name = '', ...rest] = path;
  if (rest.length === 0) {
    settings[name] = value;
    return;
  }
  const branch = (settings[name] ?? {}) as Settings;
  settings[name] = branch;
  setAt(branch, rest, value);
}

function merge(base: Settings, over: Settings): Settings {
  const merged: Settings = { ...base };
  for (const [name, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const isBranch = typeof value === 'object' && value !== null && !Array.isArray(value);
    merged[name] = isBranch ? merge((base[name] ?? {}) as Settings, value as Settings) : value;
  }
  return merged;
}
