// Fields that objects of several kinds have, as the API server takes them: null means absent, and
// fields that we do not read are of no account.

import * as v from 'valibot';
import {
  addressBytes, addressText, isAddress, isPrefix, prefixKey, prefixText,
} from '../engine/address.ts';
import { intern } from './intern.ts';

export type Path = readonly (string | number)[];

/** Tells that a field is wrong, and why. */
export type Refuse = (path: Path, reason: string) => void;

/** Labels as key, value, key, value, ...; sorted by key. Keys may be any word, `constructor` too,
 * so they are never the keys of an object. */
export type Labels = readonly string[];

/** A field that may be missing, or null, which is the same. */
export function maybe<S extends v.GenericSchema>(schema: S) {
  return v.pipe(v.nullish(schema), v.transform((value) => value ?? undefined));
}

const NAME = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/;
export const Name = v.pipe(v.string(), v.maxLength(253), v.regex(NAME, 'not a Kubernetes name'));
export const Address = v.pipe(
  v.string(),
  v.check(isAddress, 'not an IP address'),
  v.transform((text) => addressText(addressBytes(text))),
);
export const Prefix = v.pipe(
  v.string(),
  v.check(isPrefix, 'not a prefix in CIDR form'),
  v.transform((text) => prefixText(prefixKey(text))),
);
export const Port = v.pipe(
  v.number(), v.integer(), v.minValue(1, 'not between 1 and 65535'),
  v.maxValue(65535, 'not between 1 and 65535'));
export const Protocol = v.picklist(['TCP', 'UDP', 'SCTP'], 'not one of TCP, UDP, SCTP');
export const Metadata = {
  name: Name,
  uid: maybe(v.pipe(v.string(), v.maxLength(128))),
  creationTimestamp: maybe(v.pipe(v.string(), v.isoTimestamp('not a time'))),
};

/** Protocol numbers of the protocols that policies name. */
export const PROTOCOL_NUMBERS = { TCP: 6, UDP: 17, SCTP: 132 } as const;

const LABEL_NAME = /^([A-Za-z0-9][A-Za-z0-9_.-]{0,61})?[A-Za-z0-9]$/;
const LABEL_PREFIX = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/;
const LABEL_VALUE = /^(([A-Za-z0-9][A-Za-z0-9_.-]{0,61})?[A-Za-z0-9])?$/;
const PORT_NAME = /^(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;

/** A qualified name: a name of up to 63 characters, perhaps with a DNS name before a slash. */
export function isLabelKey(text: string): boolean {
  const [name = '', prefix, rest] = text.split('/').reverse();
  if (rest !== undefined || !LABEL_NAME.test(name)) return false;
  return prefix === undefined || (prefix.length <= 253 && LABEL_PREFIX.test(prefix));
}

export function isLabelValue(text: string): boolean {
  return LABEL_VALUE.test(text);
}

/** RFC 6335 section 5.1: up to 15 letters, digits and single hyphens inside, at least a letter. */
export function isPortName(text: string): boolean {
  return text.length <= 15 && PORT_NAME.test(text);
}

/** Labels, or what `matchLabels` asks of labels. A value of null is the empty one. */
export const LabelsSchema = v.pipe(
  v.custom<object>((value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    'not a map of labels'),
  v.rawTransform<object, Labels>(({ dataset, addIssue }) => {
    const input = dataset.value as Record<string, unknown>;
    return Object.keys(input).sort().flatMap((key) => {
      const value = input[key] ?? '';
      const reason = refuseLabel(key, value);
      if (reason !== null) {
        addIssue({
          message: reason,
          path: [{ type: 'object', origin: 'value', input: { ...input }, key, value }],
        });
      }
      return [intern(key), intern(String(value))];
    });
  }),
);

function refuseLabel(key: string, value: unknown): string | null {
  if (!isLabelKey(key)) return 'not a label key';
  if (typeof value !== 'string') return 'not a text';
  return isLabelValue(value) ? null : 'not a label value';
}

/** The value of a label; undefined where there is none of that key. */
export function labelValue(labels: Labels, key: string): string | undefined {
  for (let at = 0; at < labels.length; at += 2) {
    if (labels[at] === key) return labels[at + 1];
  }
  return undefined;
}

/** The labels with one of them set. */
export function withLabel(labels: Labels, key: string, value: string): Labels {
  if (labelValue(labels, key) === value) return labels;
  const pairs: [string, string][] = [[key, value]];
  for (let at = 0; at < labels.length; at += 2) {
    const name = labels[at] ?? '';
    if (name !== key) pairs.push([name, labels[at + 1] ?? '']);
  }
  return pairs.sort(([a], [b]) => compareText(a, b)).flat();
}

/** Order by code units, the same everywhere. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}

/** The names of fields that are set and not among those known. */
export function unknownFields(value: object, known: readonly string[]): string[] {
  return Object.entries(value)
    .filter(([name, field]) => field !== null && field !== undefined && !known.includes(name))
    .map(([name]) => name);
}
