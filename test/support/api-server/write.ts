// Writes through the API: what a server fills in, refuses, keeps and drops, as far as recorded.

import { isDeepStrictEqual } from 'node:util';
import { apiVersionOf, customType, keyOf, type Fields, type KubeObject, type ResourceType }
  from './resources.ts';
import { applyPatch } from './patch.ts';
import { prepare } from './prepare.ts';
import { Refusal, badRequest, failure, notFound } from './status.ts';
import type { Collection, Store } from './store.ts';

/** One write, with what the path says. */
export interface Writing {
  store: Store;
  collection: Collection;
  namespace: string | null;
  name: string;
  subresource: string;
  query: URLSearchParams;
}

/** Types whose status is written through a subresource of its own only. */
const WITH_STATUS = new Set(['pods', 'nodes', 'services', 'namespaces']);
/** The status of a new object is dropped for these. */
const STATUS_DROPPED = new Set(['pods', 'services']);
const DEFAULT_GRACE_S = 30;

/** A copy with metadata that the server has made. */
export function completed(store: Store, type: ResourceType, given: KubeObject): KubeObject {
  const object = structuredClone(given);
  const { metadata } = object;
  metadata.uid ??= store.counter.uid();
  metadata.creationTimestamp ??= store.counter.timestamp();
  const isNew = store.serverVersion !== '1.20';
  if (type.plural === 'namespaces') {
    object['spec'] ??= { finalizers: ['kubernetes'] };
    object['status'] ??= { phase: 'Active' };
    if (isNew) {
      metadata.labels = { ...metadata.labels, 'kubernetes.io/metadata.name': metadata.name };
    }
  }
  if (type.isCustom || type.plural === 'networkpolicies' || (isNew && type.plural === 'pods')) {
    metadata.generation ??= 1;
  }
  return object;
}

export function create({ store, collection, namespace }: Writing, body: KubeObject): KubeObject {
  const { type } = collection;
  const given = structuredClone(body);
  if (type.namespaced) given.metadata.namespace ??= namespace ?? 'default';
  if (typeof given.metadata.name !== 'string') {
    throw new Refusal(badRequest('name or generateName is required'));
  }
  const key = keyOf(given);
  if (collection.get(key) !== null) {
    throw new Refusal(failure(409, 'AlreadyExists',
      `${type.plural} "${given.metadata.name}" already exists`,
      { name: given.metadata.name, group: type.group, kind: type.plural }));
  }
  if (STATUS_DROPPED.has(type.plural)) given['status'] = { phase: 'Pending' };
  const made = completed(store, type, prepare(store, type, given));
  collection.put(made);
  return made;
}

function existing({ collection, namespace, name }: Writing): KubeObject {
  const found = collection.get(namespace === null ? name : `${namespace}/${name}`);
  if (found === null) throw new Refusal(notFound(collection.type, name));
  return found;
}

/** Stores what an object has become, and ends its life when nothing holds it any more. A change of
 * nothing makes no version and no event. */
function settle({ store, collection }: Writing, old: KubeObject, wanted: KubeObject): KubeObject {
  const { type } = collection;
  const changed = prepare(store, type, wanted);
  changed.metadata = {
    ...changed.metadata, name: old.metadata.name,
    ...(old.metadata.uid === undefined ? {} : { uid: old.metadata.uid }),
    ...(old.metadata.resourceVersion === undefined ? {}
      : { resourceVersion: old.metadata.resourceVersion }),
  };
  if (isDeepStrictEqual(changed, old)) return old;
  const { generation } = old.metadata;
  if (generation !== undefined && !isDeepStrictEqual(changed['spec'], old['spec'])) {
    changed.metadata.generation = generation + 1;
  }
  const { deletionTimestamp, finalizers = [] } = changed.metadata;
  collection.put(changed);
  const isHeld = deletionTimestamp === undefined || finalizers.length > 0
    || (old.metadata.finalizers ?? []).length === 0;
  if (!isHeld) collection.remove(keyOf(changed));
  return changed;
}

/** What remains of a whole new object where only a part of it may be written. */
function writable({ collection, subresource }: Writing, old: KubeObject, wanted: KubeObject)
  : KubeObject {
  const { type } = collection;
  const result = structuredClone(wanted);
  const take = (field: string): void => {
    if (old[field] === undefined) delete result[field];
    else result[field] = structuredClone(old[field]);
  };
  if (subresource === 'status') {
    take('spec');
    if (type.isCustom) result.metadata = structuredClone(old.metadata);
  } else if (WITH_STATUS.has(type.plural) || type.isCustom) {
    take('status');
  }
  return result;
}

export function patch(writing: Writing, body: unknown, contentType: string): KubeObject {
  const old = existing(writing);
  const asked = (body as { metadata?: Fields }).metadata ?? {};
  checkPreconditions(writing, old, asked);
  const patched = applyPatch(old, body, contentType, writing.collection.type.isCustom);
  patched.metadata.resourceVersion = old.metadata.resourceVersion ?? '';
  return settle(writing, old, writable(writing, old, patched));
}

export function replace(writing: Writing, body: KubeObject): KubeObject {
  const old = existing(writing);
  checkPreconditions(writing, old, body.metadata);
  const { type } = writing.collection;
  if (writing.subresource === 'finalize' || writing.subresource === 'binding') return old;
  const wanted: KubeObject = {
    ...structuredClone(body), kind: type.kind, apiVersion: apiVersionOf(type),
  };
  wanted.metadata = { ...old.metadata, ...wanted.metadata };
  return settle(writing, old, writable(writing, old, wanted));
}

function checkPreconditions({ collection, name }: Writing, old: KubeObject, asked: Fields): void {
  const { type } = collection;
  const conflict = (message: string): Refusal => new Refusal(failure(409, 'Conflict',
    `Operation cannot be fulfilled on ${type.plural} "${name}": ${message}`,
    { name, group: type.group, kind: type.plural }));
  const version = asked['resourceVersion'];
  if (typeof version === 'string' && version !== '' && version !== old.metadata.resourceVersion) {
    throw conflict('the object has been modified; please apply your changes to the latest version '
      + 'and try again');
  }
  const uid = asked['uid'];
  if (typeof uid === 'string' && uid !== '' && uid !== old.metadata.uid) {
    throw conflict(`Precondition failed: UID in precondition: ${uid}, UID in object meta: `
      + `${old.metadata.uid ?? ''}`);
  }
}

/** Binds a pod to a node: what a scheduler does. */
export function bind(writing: Writing, body: KubeObject): void {
  const old = existing(writing);
  const node = (body['target'] as { name?: string } | undefined)?.name ?? '';
  const spec = { ...(old['spec'] as Fields | undefined), nodeName: node };
  settle(writing, old, structuredClone({ ...old, spec }));
}

/** Ends a namespace whose content is gone: what the namespace controller does. */
export function finalize(writing: Writing, body: KubeObject): KubeObject {
  const old = existing(writing);
  const finalizers = (body['spec'] as { finalizers?: string[] } | undefined)?.finalizers ?? [];
  if (old.metadata.deletionTimestamp !== undefined && finalizers.length === 0) {
    writing.collection.remove(keyOf(old));
  }
  return old;
}

/** Deletes as a server does: at once, or by a mark that a kubelet, a controller or a finalizer's
 * owner has to act on. */
export function remove(writing: Writing, graceAsked: number | null): KubeObject {
  const old = existing(writing);
  const { store, collection } = writing;
  const { plural } = collection.type;
  const finalizers = old.metadata.finalizers ?? [];
  const spec = old['spec'] as { nodeName?: string; terminationGracePeriodSeconds?: number }
    | undefined;
  const phase = (old['status'] as { phase?: string } | undefined)?.phase;
  const isPod = plural === 'pods';
  const isRunning = isPod && spec?.nodeName !== undefined && phase !== 'Succeeded'
    && phase !== 'Failed';
  const graceS = isRunning
    ? graceAsked ?? spec?.terminationGracePeriodSeconds ?? DEFAULT_GRACE_S : 0;
  const isMarked = isPod || plural === 'namespaces' || finalizers.length > 0;
  if (!isMarked) {
    collection.remove(keyOf(old));
    if (plural === 'customresourcedefinitions') store.drop(customType(old));
    return old;
  }
  const marked = structuredClone(old);
  marked.metadata.deletionTimestamp = store.counter.timestamp(graceS);
  if (isPod) marked.metadata['deletionGracePeriodSeconds'] = graceS;
  if (plural === 'namespaces') marked['status'] = { phase: 'Terminating' };
  collection.put(marked);
  const waits = graceS > 0 || plural === 'namespaces' || finalizers.length > 0;
  if (!waits) collection.remove(keyOf(marked));
  return marked;
}
