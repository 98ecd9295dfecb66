// One request, from its path to its answer: who asks, for what, may they, and then the read or the
// write. Nothing here knows sockets beyond the request and the response.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Fault, Faults } from './faults.ts';
import { isAllowed, userOf, ANONYMOUS, MASTERS, type User } from './rbac.ts';
import { Watch, sendList, type ReadSettings, type Reading } from './read.ts';
import { apiVersionOf, clusterNetworkPolicyDefinition, customType, type KubeObject }
  from './resources.ts';
import { Refusal, badRequest, failure, forbidden, forbiddenPath, initializing, noSuchResource,
  notFound, unauthorized, type Attributes, type Status } from './status.ts';
import type { Collection, Store } from './store.ts';
import { bind, create, finalize, patch, remove, replace, type Writing } from './write.ts';

/** What one server's requests share. */
export interface ApiState {
  store: Store;
  faults: Faults;
  tokens: Map<string, User>;
  watches: Set<Watch>;
  settings: ReadSettings;
  /** Until then (performance.now()) only members of system:masters are known to have rights. */
  rolesLoadAtMs: number;
  /** Until then a custom resource that was just made is not served. */
  initializing: Map<Collection, number>;
}

/** A request as its path and method say it. */
interface Asked extends Attributes {
  version: string;
  isWatch: boolean;
}

/** How long a new custom resource is answered with 429. */
const INITIALIZE_S = 0.1;
const BODY_LIMIT = 64 * 1024 * 1024;
const OPEN_PATHS = new Set(['/version', '/readyz', '/livez', '/healthz']);
const VERBS: Record<string, string> = {
  POST: 'create', PUT: 'update', PATCH: 'patch', DELETE: 'delete',
};

/** Answers one request, and returns what was asked for the record. */
export async function answer(state: ApiState, request: IncomingMessage, response: ServerResponse)
  : Promise<void> {
  const url = new URL(request.url ?? '/', 'http://server');
  try {
    await serve(state, request, response, url);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.delayMs > 0) await new Promise((resolve) => setTimeout(resolve, error.delayMs));
    sendStatus(response, error.status);
  }
}

export function sendStatus(response: ServerResponse, status: Status): void {
  if (response.headersSent || response.destroyed) return;
  const retry = status.details?.retryAfterSeconds;
  if (retry !== undefined) response.setHeader('retry-after', retry);
  sendJson(response, status.code, status);
}

function sendJson(response: ServerResponse, code: number, body: unknown): void {
  sendText(response, code, 'application/json', `${JSON.stringify(body)}\n`);
}

function sendText(response: ServerResponse, code: number, type: string, text: string): void {
  response.writeHead(code, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

async function serve(state: ApiState, request: IncomingMessage, response: ServerResponse, url: URL)
  : Promise<void> {
  const user = userOf(request, state.tokens);
  if (user === null) throw new Refusal(unauthorized());
  const asked = parsePath(request.method ?? 'GET', url);
  if (asked === null) {
    servePath(state, request, response, url.pathname, user);
    return;
  }
  const isWatchList = asked.isWatch && url.searchParams.get('sendInitialEvents') === 'true';
  const fault = state.faults.take(asked, user.name, isWatchList);
  if (fault?.delayMs !== undefined) {
    await new Promise((resolve) => setTimeout(resolve, fault.delayMs));
  }
  if (fault?.status !== undefined) {
    sendFault(response, fault, fault.status);
    return;
  }
  authorize(state, user, asked);
  const { store } = state;
  const collection = store.find(asked.group, asked.version, asked.plural);
  if (collection === null) {
    if (asked.plural.startsWith('selfsubject')) await review(state, request, response, user);
    else sendNoResource(store, response, asked);
    return;
  }
  if ((state.initializing.get(collection) ?? 0) > performance.now()) {
    throw new Refusal(initializing());
  }
  const reading: Reading = {
    store, collection, namespace: asked.namespace, query: url.searchParams, fault,
    settings: state.settings,
  };
  if (asked.isWatch) startWatch(state, request, response, reading);
  else if (asked.verb === 'list') await sendList(request, response, reading);
  else await serveObject(state, request, response, asked, reading);
}

function startWatch(state: ApiState, request: IncomingMessage, response: ServerResponse,
  reading: Reading): void {
  let watch: Watch | null = null;
  let isOver = false;
  watch = new Watch(request, response, reading, () => {
    isOver = true;
    if (watch !== null) state.watches.delete(watch);
  });
  if (!isOver) state.watches.add(watch);
}

/** Verb, resource, namespace and name of a path; null for a path that is no resource. */
export function parsePath(method: string, url: URL): Asked | null {
  const parts = url.pathname.split('/').filter((part) => part !== '').map(decodeURIComponent);
  const isCore = parts[0] === 'api';
  const start = isCore ? 2 : 3;
  if ((!isCore && parts[0] !== 'apis') || parts.length <= start) return null;
  const group = isCore ? '' : parts[1] ?? '';
  const version = parts[start - 1] ?? '';
  const rest = parts.slice(start);
  const isOldWatch = rest[0] === 'watch';
  if (isOldWatch) rest.shift();
  let namespace: string | null = null;
  const isInNamespace = rest[0] === 'namespaces' && rest.length > 2
    && !['finalize', 'status'].includes(rest[2] ?? '');
  if (isInNamespace) {
    namespace = rest[1] ?? '';
    rest.splice(0, 2);
  }
  const [plural = '', name = '', subresource = ''] = rest;
  const isWatch = method === 'GET'
    && (isOldWatch || /^(1|true)$/.test(url.searchParams.get('watch') ?? ''));
  let verb = VERBS[method] ?? (name === '' ? 'list' : 'get');
  if (isWatch) verb = 'watch';
  if (method === 'DELETE' && name === '') verb = 'deletecollection';
  return { verb, group, version, plural, subresource, namespace, name, isWatch };
}

function authorize(state: ApiState, user: User, asked: Asked): void {
  const isMaster = user.groups.includes(MASTERS);
  const areLoaded = performance.now() >= state.rolesLoadAtMs;
  if (isMaster || (areLoaded && isAllowed(state.store, user, asked))) return;
  if (asked.plural.startsWith('selfsubject') && user !== ANONYMOUS) return;
  throw new Refusal(forbidden(user.name, asked));
}

function sendFault(response: ServerResponse, fault: Fault, code: number): void {
  if (fault.text !== undefined) {
    sendText(response, code, 'text/plain; charset=utf-8', fault.text);
    return;
  }
  const { retryAfterSeconds } = fault;
  sendStatus(response, failure(code, fault.reason ?? 'InternalError',
    fault.message ?? `a fault of ${code}`,
    retryAfterSeconds === undefined ? undefined : { retryAfterSeconds }));
}

/** A resource that is not there: plain text for a group that is unknown, a Status otherwise. */
function sendNoResource(store: Store, response: ServerResponse, asked: Asked): void {
  const isKnown = store.types().some(({ group }) => group === asked.group);
  if (isKnown) throw new Refusal(noSuchResource());
  sendText(response, 404, 'text/plain; charset=utf-8', '404 page not found\n');
}

function servePath(state: ApiState, request: IncomingMessage, response: ServerResponse,
  path: string, user: User): void {
  if (path === '/version') {
    const minor = state.store.serverVersion === '1.20' ? '20' : '36';
    sendJson(response, 200, { major: '1', minor, gitVersion: `v1.${minor}.2` });
    return;
  }
  if (OPEN_PATHS.has(path)) {
    sendText(response, 200, 'text/plain; charset=utf-8', 'ok');
    return;
  }
  if (user === ANONYMOUS) {
    throw new Refusal(forbiddenPath(user.name, (request.method ?? 'GET').toLowerCase(), path));
  }
  const types = state.store.types();
  const served = types.filter((type) => path === (type.group === '' ? '/api/v1'
    : `/apis/${apiVersionOf(type)}`));
  const [first] = served;
  const group = types.map((type) => type.group)
    .find((name) => name !== '' && path === `/apis/${name}`);
  if (first !== undefined) {
    sendJson(response, 200, {
      kind: 'APIResourceList', apiVersion: 'v1', groupVersion: apiVersionOf(first),
      resources: served.map(({ plural, kind, namespaced }) =>
        ({ name: plural, singularName: '', namespaced, kind, verbs: ['get', 'list', 'watch'] })),
    });
  } else if (group !== undefined) {
    const versions = new Set(types.filter((type) => type.group === group).map(apiVersionOf));
    const known = [...versions].map((groupVersion) =>
      ({ groupVersion, version: groupVersion.slice(group.length + 1) }));
    sendJson(response, 200, {
      kind: 'APIGroup', apiVersion: 'v1', name: group, versions: known, preferredVersion: known[0],
    });
  } else if (path === '/api') {
    sendJson(response, 200, { kind: 'APIVersions', versions: ['v1'] });
  } else if (path === '/apis') {
    const groups = new Set(types.map(({ group }) => group).filter((group) => group !== ''));
    sendJson(response, 200, {
      kind: 'APIGroupList', apiVersion: 'v1', groups: [...groups].map((name) => ({ name })),
    });
  } else {
    sendText(response, 404, 'text/plain; charset=utf-8', '404 page not found\n');
  }
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > BODY_LIMIT) throw new Refusal(badRequest('the body is too large'));
  }
  if (size === 0) return {};
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    throw new Refusal(badRequest('the body is no JSON'));
  }
}

async function serveObject(state: ApiState, request: IncomingMessage, response: ServerResponse,
  asked: Asked, { store, collection, query }: Reading): Promise<void> {
  const { verb, name, namespace, subresource } = asked;
  const writing: Writing = { store, collection, namespace, name, subresource, query };
  const whole = (object: KubeObject): KubeObject =>
    ({ ...object, kind: collection.type.kind, apiVersion: apiVersionOf(collection.type) });
  if (verb === 'get') {
    const found = collection.get(namespace === null ? name : `${namespace}/${name}`);
    if (found === null) throw new Refusal(notFound(collection.type, name));
    sendJson(response, 200, whole(found));
    return;
  }
  const body = await readBody(request);
  if (verb === 'create') {
    sendJson(response, 201, serveCreate(state, writing, body as KubeObject, whole));
  } else if (verb === 'patch') {
    const type = String(request.headers['content-type'] ?? '');
    sendJson(response, 200, whole(patch(writing, body, type)));
  } else if (verb === 'update') {
    const object = body as KubeObject;
    const put = subresource === 'finalize' ? finalize : replace;
    sendJson(response, 200, whole(put(writing, object)));
  } else if (verb === 'delete') {
    const grace = query.get('gracePeriodSeconds')
      ?? (body as { gracePeriodSeconds?: number }).gracePeriodSeconds ?? null;
    sendJson(response, 200, whole(remove(writing, grace === null ? null : Number(grace))));
  } else if (verb === 'deletecollection') {
    for (const key of [...collection.keys]) {
      const object = collection.get(key);
      if (object === null || (namespace !== null && object.metadata.namespace !== namespace)) {
        continue;
      }
      remove({ ...writing, name: object.metadata.name }, 0);
    }
    sendJson(response, 200, { kind: 'Status', apiVersion: 'v1', status: 'Success' });
  }
}

function serveCreate(state: ApiState, writing: Writing, body: KubeObject,
  whole: (object: KubeObject) => KubeObject): unknown {
  const { collection, subresource, namespace, name } = writing;
  const { plural } = collection.type;
  if (plural === 'pods' && subresource === 'binding') {
    bind(writing, body);
    return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', code: 201 };
  }
  if (plural === 'serviceaccounts' && subresource === 'token') {
    const token = `token-of-${namespace ?? ''}-${name}-${state.tokens.size}`;
    state.tokens.set(token, {
      name: `system:serviceaccount:${namespace ?? ''}:${name}`,
      groups: ['system:serviceaccounts', 'system:authenticated'],
    });
    return { kind: 'TokenRequest', apiVersion: 'authentication.k8s.io/v1', status: { token } };
  }
  const made = create(writing, body);
  if (plural === 'customresourcedefinitions') define(state, made);
  return whole(made);
}

/** Serves a custom resource from now on; 1.36 answers 429 for a moment before. */
export function define(state: ApiState, definition: KubeObject, forS = INITIALIZE_S): void {
  const collection = state.store.add(customType(definition));
  if (state.store.serverVersion === '1.20') return;
  state.initializing.set(collection,
    performance.now() + forS * state.settings.secondMs);
}

/** The definition that makes ClusterNetworkPolicy known, stored and served at once. */
export function defineClusterNetworkPolicy(store: Store): void {
  const definition = clusterNetworkPolicyDefinition();
  store.collection('customresourcedefinitions').put(definition);
  store.add(customType(definition));
}

/** SelfSubjectAccessReview: the answer says whether the user may. */
async function review(state: ApiState, request: IncomingMessage, response: ServerResponse,
  user: User): Promise<void> {
  const body = await readBody(request) as {
    spec?: { resourceAttributes?: Record<string, string> };
  };
  const asked = body.spec?.resourceAttributes ?? {};
  const allowed = isAllowed(state.store, user, {
    verb: asked['verb'] ?? '', group: asked['group'] ?? '', plural: asked['resource'] ?? '',
    subresource: asked['subresource'] ?? '', namespace: asked['namespace'] ?? null,
    name: asked['name'] ?? '',
  });
  sendJson(response, 201, {
    kind: 'SelfSubjectAccessReview', apiVersion: 'authorization.k8s.io/v1', ...body,
    status: { allowed },
  });
}
