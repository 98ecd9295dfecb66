// The Node of this machine, as far as a profile writes it: annotations of one prefix and the
// condition NetworkUnavailable. Pure.

import * as v from 'valibot';
import { isPrefix, prefixKey, prefixText } from '../engine/address.ts';
import { parseShape } from '../engine/shape.ts';
import { maybe } from './fields.ts';

export type Annotations = Readonly<Record<string, string>>;

/** What we read of our own Node. `annotations` are those of the profile's prefix, whoever wrote
 * them. */
export interface OwnNode {
  uid: string;
  resourceVersion: string;
  podCidrs: string[];
  annotations: Annotations;
  /** The condition NetworkUnavailable says that pods can run here. */
  isNetworkUp: boolean;
}

/** How a network says that it is up. */
export interface UpCondition {
  reason: string;
  message: string;
}

/** The type of the condition that a network clears. */
const NETWORK_UNAVAILABLE = 'NetworkUnavailable';

const NodeSchema = v.object({
  metadata: v.object({
    uid: maybe(v.string()),
    resourceVersion: maybe(v.string()),
    annotations: maybe(v.record(v.string(), v.unknown())),
  }),
  spec: maybe(v.object({
    podCIDR: maybe(v.string()), podCIDRs: maybe(v.array(v.string())),
  })),
  status: maybe(v.object({
    conditions: maybe(v.array(v.object({ type: v.string(), status: v.string() }))),
  })),
});

/** Reads a Node. Throws ShapeError for what is none. */
export function readOwnNode(object: unknown, prefix: string): OwnNode {
  const { metadata, spec, status } = parseShape(NodeSchema, object, 'our Node');
  const single = spec?.podCIDR ? [spec.podCIDR] : [];
  const podCidrs = (spec?.podCIDRs?.length ? spec.podCIDRs : single)
    .filter(isPrefix).map((text) => prefixText(prefixKey(text)));
  const annotations = Object.entries(metadata.annotations ?? {})
    .filter((entry): entry is [string, string] =>
      entry[0].startsWith(prefix) && typeof entry[1] === 'string');
  return {
    uid: metadata.uid ?? '',
    resourceVersion: metadata.resourceVersion ?? '',
    podCidrs,
    annotations: Object.fromEntries(annotations),
    isNetworkUp: (status?.conditions ?? []).some((condition) =>
      condition.type === NETWORK_UNAVAILABLE && condition.status === 'False'),
  };
}

/** Those of `wanted` that a node does not have, or has with another value. */
export function missingFrom(present: Annotations, wanted: Annotations): Annotations {
  return Object.fromEntries(
    Object.entries(wanted).filter(([name, value]) => present[name] !== value));
}

/** Annotations sorted by name, as Go sorts them. */
export function sortedAnnotations(all: readonly [string, string][]): Annotations {
  return Object.fromEntries([...all].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The body of a strategic merge patch of a Node's status. `upSince`, a time, clears the condition
 * NetworkUnavailable; null leaves it alone. */
export function nodePatch(
  annotations: Annotations, upSince: string | null, up: UpCondition,
): object {
  const condition = upSince === null ? null : {
    type: NETWORK_UNAVAILABLE,
    status: 'False',
    lastHeartbeatTime: upSince,
    lastTransitionTime: upSince,
    ...up,
  };
  return {
    ...(Object.keys(annotations).length === 0 ? {} : { metadata: { annotations } }),
    ...(condition === null ? {} : { status: { conditions: [condition] } }),
  };
}
