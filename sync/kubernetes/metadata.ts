// What makes an object the one it is, whatever its kind.

import { KEY_SIZE_LIMIT, UID_SIZE_LIMIT } from './known.ts';

/** No shorter than what the API server takes, 253 bytes. */
const NAME_LIMIT = (KEY_SIZE_LIMIT >> 1) - 1;
const INITIAL_EVENTS_END = 'k8s.io/initial-events-end';

export interface Identity {
  /** The name, after the namespace and a slash where there is one. */
  key: string;
  uid: string;
  version: string;
}

/** Null for what is no object of an API server. */
export function identityOf(object: object): Identity | null {
  const { name, namespace, uid, resourceVersion: version } = metadataOf(object);
  const isNamespaced = namespace !== undefined && namespace !== null && namespace !== '';
  const isGood = isText(name, NAME_LIMIT) && name !== '' && isText(uid, UID_SIZE_LIMIT)
    && (!isNamespaced || isText(namespace, NAME_LIMIT)) && typeof version === 'string';
  if (!isGood) return null;
  return { key: isNamespaced ? `${String(namespace)}/${name}` : name, uid, version };
}

/** The version that a list or a bookmark stands for; null for none. */
export function versionOf(object: object): string | null {
  const { resourceVersion } = metadataOf(object);
  return typeof resourceVersion === 'string' && resourceVersion !== '' ? resourceVersion : null;
}

/** The token for the next page of a list; empty for none. */
export function continueOf(list: object): string {
  const token = metadataOf(list)['continue'];
  return typeof token === 'string' ? token : '';
}

/** Whether a bookmark says that all objects have been told. */
export function endsInitialEvents(bookmark: object): boolean {
  const { annotations } = metadataOf(bookmark);
  return typeof annotations === 'object' && annotations !== null
    && Reflect.get(annotations, INITIAL_EVENTS_END) === 'true';
}

/** A resourceVersion as a number, for comparison; NaN where it is none. They were opaque by
 * contract, but every server counts with them, and the API says so since Kubernetes 1.35. */
export function versionNumber(version: string): number {
  return /^\d{1,15}$/.test(version) ? Number(version) : NaN;
}

function metadataOf(object: object): Record<string, unknown> {
  const metadata: unknown = Reflect.get(object, 'metadata');
  return typeof metadata === 'object' && metadata !== null
    ? metadata as Record<string, unknown> : {};
}

function isText(value: unknown, sizeLimit: number): value is string {
  return typeof value === 'string' && value.length <= sizeLimit
    && Buffer.byteLength(value) <= sizeLimit;
}
