// What the command line asks of the daemon about policy modules, and what it is told. A component
// is larger than a frame: it comes in parts (`module.part`), and `module.add` puts what its
// connection has sent to use.

import * as v from 'valibot';
import { MODULE_LIMIT } from '../wasm/abi/module.ts';
import { Count } from './fields.ts';

/** Bytes of one part: it fits a frame. */
export const MODULE_PART_BYTES = 512 * 1024;
/** Bytes of an operator's configuration of one module: it fits a frame. */
export const MODULE_CONFIG_BYTES = 512 * 1024;

const ModuleName = v.pipe(
  v.string(), v.regex(/^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/, 'not the name of a module'));
const Sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'not a SHA-256 sum'));
const Bytes = (limit: number) => v.pipe(v.instance(Uint8Array),
  v.check((bytes) => bytes.length <= limit, `more than ${limit} bytes`));
/** What may be granted to a module beside its own world; the engine of modules knows the names. */
const Grants = v.pipe(v.array(v.pipe(v.string(), v.maxLength(32))), v.maxLength(16));

/** What a module's fault answers in its place. */
export const MODULE_FAILURES = ['deny', 'pass', 'allow'] as const;
export type ModuleFailure = (typeof MODULE_FAILURES)[number];

/** `module.part`. */
export const ModulePartSchema = v.strictObject({ bytes: Bytes(MODULE_PART_BYTES) });

/** What the operator says of a module. `mayAllow`: its `allow` skips NetworkPolicy; `perPacket`: a
 * stateful module is asked for each packet. */
const Settings = {
  failure: v.picklist(MODULE_FAILURES),
  mayAllow: v.boolean(),
  perPacket: v.boolean(),
  allow: Grants,
};

/** `module.add`: the component that the parts before make up. `name` null is the one that it has
 * itself; one of that name is replaced. `order` is its place among those that are asked, null for
 * the one it has, or the last. */
export const ModuleAddSchema = v.strictObject({
  sha256: Sha256,
  name: v.nullable(ModuleName),
  order: v.nullable(v.pipe(Count, v.maxValue(MODULE_LIMIT - 1))),
  config: v.nullable(Bytes(MODULE_CONFIG_BYTES)),
  ...Settings,
  memoryCapBytes: v.nullable(Count),
});
export type ModuleAdd = v.InferOutput<typeof ModuleAddSchema>;

/** `module.remove`. */
export const ModuleNameSchema = v.strictObject({ name: ModuleName });

/** A module as the daemon keeps it on disk, beside its component, what was made of that, and its
 * configuration, which is known by its hash, too. */
export const KeptModuleSchema = v.strictObject({
  name: ModuleName,
  sha256: Sha256,
  config: Sha256,
  ...Settings,
  memoryCapBytes: Count,
});
export type KeptModule = v.InferOutput<typeof KeptModuleSchema>;

/** All of them, in the order in which they are asked. */
export const KeptModulesSchema = v.strictObject({
  modules: v.pipe(v.array(KeptModuleSchema), v.maxLength(MODULE_LIMIT)),
});

/** A module in use. A disabled one is not asked: its failure verdict applies, for the reason given.
 * `evaluations` are those of this daemon, all workers together. */
export const ModuleReportSchema = v.strictObject({
  name: v.string(),
  version: v.string(),
  sha256: Sha256,
  path: v.picklist(['direct', 'component']),
  order: Count,
  ...Settings,
  stateful: v.boolean(),
  hasPayload: v.boolean(),
  evaluations: v.strictObject({
    pass: Count, allow: Count, deny: Count, reject: Count, more: Count,
  }),
  faults: v.strictObject({ trap: Count, timeout: Count, memory: Count, answer: Count }),
  memoryBytes: Count,
  state: v.picklist(['enabled', 'disabled']),
  reason: v.nullable(v.string()),
});
export type ModuleReport = v.InferOutput<typeof ModuleReportSchema>;

/** What `status` says of each. */
export const ModuleStateSchema = v.strictObject({
  name: v.string(), state: v.picklist(['enabled', 'disabled']), reason: v.nullable(v.string()),
});
export type ModuleState = v.InferOutput<typeof ModuleStateSchema>;
