// What a container runtime asks of us: environment variables and a configuration on standard
// input. CNI specification, "Execution Protocol".

import * as v from 'valibot';
import type { PodName } from '../engine/model.ts';
import { ShapeError, parseShape } from '../engine/shape.ts';
import { CODE, CniError } from './errors.ts';

export const VERBS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;
export type Verb = (typeof VERBS)[number];

/** The versions of the specification that we speak, oldest first. */
export const VERSIONS = ['0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type Version = (typeof VERSIONS)[number];
export const LATEST: Version = '1.1.0';

/** Since when there is a verb. */
const SINCE: Partial<Record<Verb, Version>> = { CHECK: '0.4.0', GC: '1.1.0', STATUS: '1.1.0' };

/** A namespace that no Kubernetes object can have, for containers that are no pods. */
const NO_NAMESPACE = '-';

const CONTAINER_ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
const INTERFACE_NAME = /^[A-Za-z0-9_.-]{1,15}$/;

const Name = v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9_.-]*$/, 'not a network name'));
const ConfigSchema = v.looseObject({
  name: Name,
  runtimeDirectory: v.optional(v.string(), '/run/culvert'),
  mtu: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(65535)), 0),
  ipam: v.optional(v.looseObject({ type: v.optional(v.string(), '') }), {}),
  prevResult: v.optional(v.looseObject({})),
  runtimeConfig: v.optional(v.looseObject({ portMappings: v.optional(v.array(v.unknown())) }), {}),
  dns: v.optional(v.looseObject({}), {}),
  'cni.dev/valid-attachments': v.optional(
    v.array(v.looseObject({ containerID: v.string(), ifname: v.string() }))),
});
export type Config = v.InferOutput<typeof ConfigSchema>;

/** The variables that the specification names. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Everything that one call is about. Fields that the verb does without are empty. */
export interface Request {
  verb: Exclude<Verb, 'VERSION'>;
  version: Version;
  containerId: string;
  interfaceName: string;
  netns: string;
  pod: PodName;
  config: Config;
  /** The configuration as it came, for another plugin, and the variables likewise. */
  text: string;
  environment: Environment;
}

/** What CNI_COMMAND says. */
export function verbOf(environment: Environment): Verb {
  const verb = environment['CNI_COMMAND'] ?? '';
  if (isOneOf(VERBS, verb)) return verb;
  const what = verb === '' ? 'CNI_COMMAND is not set' : `CNI_COMMAND ${verb} is unknown`;
  throw new CniError(CODE.invalidEnvironment, `${what}; there are ${VERBS.join(', ')}`);
}

/** The configuration's text as an object; empty text is an empty object. */
export function parseText(text: string): Record<string, unknown> {
  try {
    const value: unknown = text.trim() === '' ? {} : JSON.parse(text);
    if (Array.isArray(value)) throw new TypeError('it is an array');
    return parseShape(v.looseObject({}), value, 'configuration');
  } catch (error) {
    const { message } = error as Error;
    throw new CniError(CODE.notDecoded, 'standard input is not a network configuration', message);
  }
}

/** Reads and checks everything. Throws CniError. */
export function readRequest(
  verb: Exclude<Verb, 'VERSION'>, environment: Environment, text: string,
): Request {
  const value = parseText(text);
  const version = versionFor(verb, value['cniVersion']);
  const config = parseConfig(value);
  const isAboutPod = verb === 'ADD' || verb === 'DEL' || verb === 'CHECK';
  const containerId = isAboutPod ? variable(environment, 'CNI_CONTAINERID', CONTAINER_ID) : '';
  return {
    verb,
    version,
    containerId,
    interfaceName: isAboutPod ? variable(environment, 'CNI_IFNAME', INTERFACE_NAME) : '',
    netns: verb === 'ADD' || verb === 'CHECK'
      ? variable(environment, 'CNI_NETNS', /^.{1,4096}$/s)
      : environment['CNI_NETNS'] ?? '',
    pod: podOf(environment['CNI_ARGS'] ?? '', containerId),
    config,
    text,
    environment,
  };
}

function versionFor(verb: Verb, given: unknown): Version {
  const version = given === undefined || given === '' ? '0.1.0' : String(given);
  if (!isOneOf(VERSIONS, version)) {
    throw new CniError(CODE.incompatibleVersion, `incompatible CNI version ${version}`,
      `culvert speaks ${VERSIONS.join(', ')}`);
  }
  const since = SINCE[verb];
  if (since !== undefined && VERSIONS.indexOf(version) < VERSIONS.indexOf(since)) {
    throw new CniError(CODE.incompatibleVersion,
      `CNI version ${version} has no ${verb}`, `there is one since ${since}`);
  }
  return version;
}

function parseConfig(value: Record<string, unknown>): Config {
  try {
    return parseShape(ConfigSchema, value, 'network configuration');
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    throw new CniError(CODE.invalidConfig, error.message);
  }
}

function variable(environment: Environment, name: string, pattern: RegExp): string {
  const value = environment[name] ?? '';
  if (pattern.test(value)) return value;
  const what = value === '' ? 'is not set' : `is ${JSON.stringify(value)}, which is not valid`;
  throw new CniError(CODE.invalidEnvironment, `${name} ${what}`);
}

/** The pod of CNI_ARGS, `KEY=VALUE;KEY=VALUE` in any order; without one, the container. */
export function podOf(args: string, containerId: string): PodName {
  const pairs = new Map(args.split(';').filter(Boolean).map((pair) => {
    const at = pair.indexOf('=');
    if (at <= 0) {
      throw new CniError(CODE.invalidEnvironment, `CNI_ARGS: ${JSON.stringify(pair)} is no pair`);
    }
    return [pair.slice(0, at), pair.slice(at + 1)];
  }));
  const namespace = pairs.get('K8S_POD_NAMESPACE') ?? '';
  const name = pairs.get('K8S_POD_NAME') ?? '';
  const isPod = namespace !== '' && name !== '';
  if (!isPod) return { namespace: NO_NAMESPACE, name: containerId || NO_NAMESPACE, uid: '' };
  return { namespace, name, uid: pairs.get('K8S_POD_UID') ?? '' };
}

function isOneOf<T extends string>(all: readonly T[], text: string): text is T {
  return (all as readonly string[]).includes(text);
}
