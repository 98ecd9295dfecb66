// A Kubernetes API server for tests: what a sidecar sees of one, and what goes wrong with one.
//
//   const server = new TestApiServer({ version: '1.36' });        // or '1.36-etcd3.4', '1.20'
//   await server.start();                                          // TLS on 127.0.0.1, a free port
//   server.url; server.ca; server.token;                           // how `engine` gets in
//   const path = server.kubeconfig();                              // the same as a file
//   server.grant('engine', RULES);                                 // rights: none until granted
//
// Store mode. Objects are put by methods, as whole objects (a status is kept), or over HTTP by any
// client that holds ADMIN_TOKEN: list, pages, watch, WatchList, get, create, update, patch, delete,
// nodes/status, pods/binding, tokens of service accounts, roles, CustomResourceDefinitions.
//
//   server.create('pods', { metadata: { namespace: 'a', name: 'b' }, spec, status });
//   server.patch('pods', 'a/b', { metadata: { labels: { x: 'y' } } });     // a merge patch
//   server.replace('pods', object); server.delete('pods', 'a/b');
//   server.get('nodes', 'n1'); server.list('pods');
//   server.store.collection('pods').virtual(100_000, (i) => pod);          // made when read
//   server.defineClusterNetworkPolicy();                           // the CRD; absent until then
//
// What goes wrong. `server.faults.add({...})` meets the next requests that fit (faults.ts). The
// server as a whole:
//
//   await server.kill(); await server.start();       // SIGKILL, and back on the same port
//   await server.start({ rolesAfterMs: 500 });       // 403 for a while, as after a real start
//   await server.terminate(2);                       // SIGTERM: watches hang for 2 seconds
//   server.compact(); server.restart();              // etcd forgets; the caches are empty
//   const backup = server.store.backup(); server.restore(backup);   // versions go back
//   server.dropWatches('end' | 'cut');               // all running watches
//   server.freeze(); server.thaw();                  // half-open: connections live and say nothing
//   server.skewMs = 3_600_000;                       // the server's clock
//
// `server.requests` tells what was asked, newest last. A replay of a recording is replay.ts.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type IncomingMessage, type Server,
  type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../source.ts';
import { answer, define, defineClusterNetworkPolicy, parsePath, type ApiState } from './api.ts';
import { Faults } from './faults.ts';
import { MASTERS, type Rule } from './rbac.ts';
import { builtInTypes, keyOf, type KubeObject, type ServerVersion } from './resources.ts';
import { applyPatch } from './patch.ts';
import { Store, type Backup } from './store.ts';
import { completed } from './write.ts';

/** May do everything. */
export const ADMIN_TOKEN = 'test-admin-token';
/** The user `engine`, who may do what was granted. */
export const ENGINE_TOKEN = 'test-engine-token';

/** The rights that a sidecar without a profile needs. */
export const READER_RULES: readonly Rule[] = [
  { apiGroups: [''], resources: ['nodes', 'namespaces', 'pods'], verbs: ['list', 'watch'] },
  { apiGroups: ['networking.k8s.io'], resources: ['networkpolicies'], verbs: ['list', 'watch'] },
  { apiGroups: ['policy.networking.k8s.io'], resources: ['clusternetworkpolicies'],
    verbs: ['list', 'watch'] },
  { apiGroups: [''], resources: ['services'], verbs: ['list', 'watch'] },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
];

export interface ServerOptions {
  version?: ServerVersion;
  /** Plain HTTP when false. */
  tls?: boolean;
  host?: string;
  port?: number;
  /** The certificates: `other` is a second authority. */
  certificates?: 'first' | 'other';
  /** How long one second of the server lasts: time-outs, bookmarks and waits go by it. */
  secondMs?: number;
  /** Changes that are kept of each type. */
  historyLimit?: number;
}

/** One request as it came in. */
export interface Seen {
  atMs: number;
  method: string;
  path: string;
  verb: string;
  resource: string;
  status: number;
  agent: string;
}

const TLS_FOLDER = join(ROOT, 'test', 'golden', 'tls');
const SEEN_LIMIT = 20_000;
const LAST_WORDS_MS = 10;
/** How long a server that was asked to end keeps its watches. */
const HANG_S = 60;
const RECORDED_GZIP_BYTES = 128 * 1024;
const RECORDED_PLAIN_BYTES = 2048;
/** A real second. */
const SECOND_MS = 1000;

function pem(name: string): string {
  return readFileSync(join(TLS_FOLDER, name), 'utf8');
}

export class TestApiServer {
  readonly store: Store;
  readonly faults = new Faults();
  readonly requests: Seen[] = [];
  readonly token = ENGINE_TOKEN;
  /** Connections accepted so far. */
  connectionCount = 0;
  readonly #options: Required<ServerOptions>;
  readonly #state: ApiState;
  readonly #sockets = new Set<Socket>();
  readonly #folders: string[] = [];
  #certificates: 'first' | 'other';
  #server: Server | null = null;
  #port: number;
  #isFrozen = false;
  #handler: (request: IncomingMessage, response: ServerResponse) => Promise<void>;

  constructor(options: ServerOptions = {}) {
    this.#options = {
      version: '1.36', tls: true, host: '127.0.0.1', port: 0, certificates: 'first',
      secondMs: SECOND_MS, historyLimit: 20_000, ...options,
    };
    const { version, historyLimit, secondMs } = this.#options;
    this.store = new Store(version, builtInTypes(version), historyLimit);
    this.#certificates = this.#options.certificates;
    this.#port = this.#options.port;
    this.#state = {
      store: this.store, faults: this.faults, watches: new Set(), rolesLoadAtMs: 0,
      tokens: new Map([
        [ADMIN_TOKEN, { name: 'admin', groups: [MASTERS, 'system:authenticated'] }],
        [ENGINE_TOKEN, { name: 'engine', groups: ['system:authenticated'] }],
      ]),
      settings: { secondMs, gzipBytes: RECORDED_GZIP_BYTES, plainBytes: RECORDED_PLAIN_BYTES },
      initializing: new Map(),
    };
    this.#handler = (request, response) => answer(this.#state, request, response);
  }

  /** Answers by a function in place of the store. */
  handleBy(handler: (request: IncomingMessage, response: ServerResponse) => Promise<void>): void {
    this.#handler = handler;
  }

  get url(): string {
    const { tls, host } = this.#options;
    const name = host.includes(':') ? `[${host}]` : host;
    return `${tls ? 'https' : 'http'}://${name}:${this.#port}`;
  }

  /** The authority that the server's certificate is signed by, PEM. */
  get ca(): string {
    return pem(this.#certificates === 'first' ? 'ca.pem' : 'other-ca.pem');
  }

  get tokens(): ApiState['tokens'] {
    return this.#state.tokens;
  }

  get watchCount(): number {
    return this.#state.watches.size;
  }

  set skewMs(ms: number) {
    this.store.counter.skewMs = ms;
  }

  /** Listens, on the same port as before. `rolesAfterMs`: so long nobody but admins has rights. */
  async start({ rolesAfterMs = 0, certificates }: {
    rolesAfterMs?: number; certificates?: 'first' | 'other';
  } = {}): Promise<void> {
    if (this.#server !== null) throw new Error('the server runs already');
    this.#certificates = certificates ?? this.#certificates;
    this.#state.rolesLoadAtMs = performance.now() + rolesAfterMs;
    const listener = (request: IncomingMessage, response: ServerResponse): void => {
      this.#answer(request, response);
    };
    const prefix = this.#certificates === 'first' ? '' : 'other-';
    const server = this.#options.tls
      ? createHttpsServer({
        cert: pem(`${prefix}server.pem`), key: pem(`${prefix}server-key.pem`),
        ca: pem('ca.pem'), requestCert: true, rejectUnauthorized: false,
      }, listener)
      : createHttpServer(listener);
    server.requestTimeout = 0;
    server.headersTimeout = 0;
    server.on('connection', (socket: Socket) => {
      this.connectionCount += 1;
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
      socket.on('error', () => {});
      if (this.#isFrozen) socket.pause();
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, this.#options.host, resolve);
    });
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://server');
    const asked = parsePath(request.method ?? 'GET', url);
    const seen: Seen = {
      atMs: performance.now(), method: request.method ?? 'GET', path: request.url ?? '',
      verb: asked?.verb ?? '', resource: asked?.plural ?? '', status: 0,
      agent: String(request.headers['user-agent'] ?? ''),
    };
    this.requests.push(seen);
    if (this.requests.length > 2 * SEEN_LIMIT) this.requests.splice(0, SEEN_LIMIT);
    if (this.#isFrozen) return;
    if (this.store.counter.skewMs !== 0) {
      response.setHeader('date', new Date(Date.now() + this.store.counter.skewMs).toUTCString());
    }
    response.on('error', () => {});
    this.#handler(request, response).catch((error: unknown) => {
      process.stderr.write(`test API server: ${String((error as Error).stack)}\n`);
      response.destroy();
    }).finally(() => { seen.status = response.statusCode; });
  }

  /** From now on granted rights count, if they did not yet. */
  loadRoles(): void {
    this.#state.rolesLoadAtMs = 0;
  }

  /** Custom resources that were just made are served from now on. */
  initialize(): void {
    this.#state.initializing.clear();
  }

  /** Stores a CustomResourceDefinition and serves what it defines, after a moment (1.36). */
  define(definition: KubeObject, initializeS?: number): void {
    this.create('customresourcedefinitions', definition);
    define(this.#state, definition, initializeS);
  }

  /** SIGKILL: all connections break and nobody is accepted. */
  async kill(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    for (const watch of [...this.#state.watches]) watch.cut();
    for (const socket of this.#sockets) socket.destroy();
    if (server !== null) await new Promise((resolve) => server.close(resolve));
  }

  /** SIGTERM: nobody new is accepted, watches hang for a while; then 1.36 ends them cleanly and
   * 1.20 cuts them. */
  async terminate(hangS = HANG_S): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (server === null) return;
    const closed = new Promise((resolve) => server.close(resolve));
    const watches = [...this.#state.watches];
    const sockets = [...this.#sockets];
    // Connections that only wait for another request are closed at once.
    (server as Server).closeIdleConnections();
    await new Promise((resolve) => setTimeout(resolve, hangS * this.#options.secondMs));
    for (const watch of watches) {
      if (this.store.serverVersion === '1.20') watch.cut();
      else watch.end();
    }
    // The ends are let out before the connections go.
    await new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS));
    for (const socket of sockets) socket.destroy();
    await closed;
  }

  /** Ends the server and removes its files. */
  async close(): Promise<void> {
    this.#isFrozen = false;
    await this.kill();
    for (const folder of this.#folders) rmSync(folder, { recursive: true, force: true });
  }

  /** From now on nothing is said and nothing is heard; connections stay, also new ones. */
  freeze(): void {
    this.#isFrozen = true;
    for (const watch of [...this.#state.watches]) watch.isMuted = true;
    for (const socket of this.#sockets) socket.pause();
  }

  /** Connections that were frozen stay dead; new ones are served. */
  thaw(): void {
    this.#isFrozen = false;
    for (const socket of this.#sockets) socket.resume();
  }

  dropWatches(how: 'end' | 'cut', resource?: string): void {
    for (const watch of [...this.#state.watches]) {
      if (resource !== undefined && watch.collection.type.plural !== resource) continue;
      if (how === 'end') watch.end();
      else watch.cut();
    }
  }

  /** Sends a bookmark to every watch. */
  bookmark(): void {
    for (const watch of this.#state.watches) watch.bookmark();
  }

  compact(): void {
    this.store.compact();
  }

  /** The caches of the server are empty, as after a start; watches are cut. */
  restart(floor: 'newest' | 'now' = 'newest'): void {
    this.dropWatches('cut');
    this.store.restart(floor);
  }

  /** Another state, with older versions; watches are cut. */
  restore(backup: Backup): void {
    this.dropWatches('cut');
    this.store.restore(backup);
  }

  /** Gives rights to a user, in place of those granted before. */
  grant(user: string, rules: readonly Rule[]): void {
    this.store.collection('clusterroles').put({
      metadata: { name: `grant-${user}` }, rules: structuredClone(rules) as unknown,
    });
    this.store.collection('clusterrolebindings').put({
      metadata: { name: `grant-${user}` },
      roleRef: { kind: 'ClusterRole', name: `grant-${user}` },
      subjects: [{ kind: 'User', name: user }],
    });
  }

  defineClusterNetworkPolicy(): void {
    defineClusterNetworkPolicy(this.store);
  }

  /** Stores an object as it is, with metadata that the server makes. Throws if it is there. */
  create(resource: string, object: KubeObject): KubeObject {
    const collection = this.store.collection(resource);
    if (collection.get(keyOf(object)) !== null) throw new Error(`${keyOf(object)} is there`);
    const made = completed(this.store, collection.type, object);
    collection.put(made);
    return made;
  }

  /** Changes an object by a merge patch, whatever part it is of. */
  patch(resource: string, key: string, change: unknown): KubeObject {
    const collection = this.store.collection(resource);
    const old = collection.get(key);
    if (old === null) throw new Error(`no ${resource} ${key}`);
    const changed = applyPatch(structuredClone(old), structuredClone(change),
      'application/merge-patch+json', true);
    collection.put(changed);
    return changed;
  }

  /** Stores an object in place of another of the same name. With another uid it is another one. */
  replace(resource: string, object: KubeObject): KubeObject {
    const collection = this.store.collection(resource);
    const made = completed(this.store, collection.type, object);
    collection.put(made);
    return made;
  }

  delete(resource: string, key: string): void {
    if (this.store.collection(resource).remove(key) === null) {
      throw new Error(`no ${resource} ${key}`);
    }
  }

  get(resource: string, key: string): KubeObject | null {
    return this.store.collection(resource).get(key);
  }

  list(resource: string): KubeObject[] {
    return [...this.store.collection(resource).objects().values()];
  }

  /** Writes a kubeconfig for a token, or for the client certificate; returns its path. */
  kubeconfig({ token = ENGINE_TOKEN, certificate = false }: {
    token?: string; certificate?: boolean;
  } = {}): string {
    const folder = mkdtempSync(join(tmpdir(), `culvert-api-${process.pid}-`));
    this.#folders.push(folder);
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    const user = certificate ? {
      'client-certificate-data': base64(pem('client.pem')),
      'client-key-data': base64(pem('client-key.pem')),
    } : { token };
    const cluster = this.#options.tls
      ? { server: this.url, 'certificate-authority-data': base64(this.ca) } : { server: this.url };
    const path = join(folder, 'kubeconfig');
    writeFileSync(path, JSON.stringify({
      apiVersion: 'v1', kind: 'Config', 'current-context': 'test',
      clusters: [{ name: 'test', cluster }], users: [{ name: 'test', user }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
    }, null, 2), { mode: 0o600 });
    return path;
  }
}
