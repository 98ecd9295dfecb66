// An API server that a test talks to without knowing whether it is a real one: requests as an
// administrator, watches as lists of events, users with rights of their own, and connections that
// can be cut.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadAccess, type Access } from '../../../sync/kubernetes/access.ts';
import { eventsOf, type WatchEvent } from './recording.ts';
import type { KubeObject, ServerVersion } from './resources.ts';
import type { Rule } from './rbac.ts';
import { ADMIN_TOKEN, TestApiServer } from './server.ts';
import { PATIENCE_MS } from '../until.ts';

export interface TargetAnswer {
  status: number;
  type: string;
  text: string;
  /** The JSON of the body; empty for what is none. */
  body: KubeObject & { items?: KubeObject[]; message?: string; reason?: string; code?: number };
}

/** A watch that runs, with what it has told so far. */
export interface TargetWatch {
  readonly status: number;
  events: WatchEvent[];
  /** Resolves at its end; true for a proper one. */
  ended: Promise<boolean>;
  stop(): void;
}

const RELAY_HOST = '127.0.0.1';
const POLL_MS = 10;
const RBAC = '/apis/rbac.authorization.k8s.io/v1';

export class Target {
  readonly access: Access;
  readonly #folder = mkdtempSync(join(tmpdir(), `culvert-target-${process.pid}-`));
  readonly #undo: (() => Promise<unknown>)[] = [];
  #files = 0;

  constructor(kubeconfig: string) {
    this.access = loadAccess({ kubeconfig, environment: {} });
  }

  /** One request, as the administrator unless a token is given. */
  ask(method: string, path: string, body?: unknown,
    { token, contentType = 'application/json' }: { token?: string; contentType?: string } = {})
    : Promise<TargetAnswer> {
    return new Promise((resolve, reject) => {
      const outgoing = this.#request(method, path, token, body === undefined ? undefined
        : contentType);
      outgoing.on('error', reject);
      outgoing.on('response', (incoming) => {
        let text = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (chunk: string) => { text += chunk; });
        incoming.on('error', reject);
        incoming.on('end', () => {
          const type = String(incoming.headers['content-type'] ?? '');
          resolve({
            status: incoming.statusCode ?? 0, type, text,
            body: (type.includes('json') ? JSON.parse(text) : {}) as TargetAnswer['body'],
          });
        });
      });
      outgoing.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  #request(method: string, path: string, token?: string, contentType?: string) {
    const { url, serverName } = this.access;
    const given = this.access.credentials();
    const bearer = token ?? given.token;
    const headers = {
      accept: 'application/json',
      ...(bearer === null ? {} : { authorization: `Bearer ${bearer}` }),
      ...(contentType === undefined ? {} : { 'content-type': contentType }),
    };
    const isPlain = url.protocol === 'http:';
    // With a token it is not the certificate's holder who asks.
    const hasKey = token === undefined && given.certificate !== null && given.key !== null;
    return (isPlain ? httpRequest : httpsRequest)(new URL(path, url), {
      method, headers, agent: false,
      ...(given.ca === null ? {} : { ca: given.ca }),
      ...(hasKey ? { cert: given.certificate ?? '', key: given.key ?? '' } : {}),
      ...(serverName === null ? {} : { servername: serverName }),
    });
  }

  /** Starts a watch; resolves when its answer has begun. */
  watch(path: string, token?: string): Promise<TargetWatch> {
    return new Promise((resolve, reject) => {
      const outgoing = this.#request('GET', path, token);
      outgoing.on('error', reject);
      outgoing.on('response', (incoming) => {
        let text = '';
        const watch: TargetWatch = {
          status: incoming.statusCode ?? 0, events: [], stop: () => { outgoing.destroy(); },
          ended: new Promise((end) => { incoming.on('close', () => end(incoming.complete)); }),
        };
        incoming.setEncoding('utf8');
        incoming.on('error', () => {});
        incoming.on('data', (chunk: string) => {
          text += chunk;
          const at = text.lastIndexOf('\n') + 1;
          watch.events.push(...eventsOf(text.slice(0, at)));
          text = text.slice(at);
        });
        resolve(watch);
      });
      outgoing.end();
    });
  }

  /** Creates an object that is deleted at the end of the test. Returns it as stored. */
  async create(path: string, object: unknown): Promise<KubeObject> {
    const { status, body, text } = await this.ask('POST', path, object);
    if (status !== 201) throw new Error(`POST ${path}: ${status} ${text}`);
    const { name } = body.metadata;
    this.#undo.push(() => this.ask('DELETE', `${path}/${name}?gracePeriodSeconds=0`));
    return body;
  }

  /** A namespace of the test's own, with the account that pods need. */
  async namespace(name: string): Promise<string> {
    await this.create('/api/v1/namespaces', { metadata: { name } });
    this.#undo.push(() => this.ask('PUT', `/api/v1/namespaces/${name}/finalize`, {
      apiVersion: 'v1', kind: 'Namespace', metadata: { name }, spec: { finalizers: [] },
    }));
    await this.ask('POST', `/api/v1/namespaces/${name}/serviceaccounts`,
      { metadata: { name: 'default' } });
    return name;
  }

  /** A token of a service account with exactly these rights; `null` takes them away again. */
  async user(namespace: string, name: string)
    : Promise<{ token: string; grant: (rules: Rule[] | null) => Promise<void> }> {
    await this.create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name } });
    const { body } = await this.ask('POST',
      `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`,
      { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} });
    const { token } = body['status'] as { token: string };
    const role = `${namespace}-${name}`;
    const grant = async (rules: Rule[] | null): Promise<void> => {
      await this.ask('DELETE', `${RBAC}/clusterrolebindings/${role}`);
      await this.ask('DELETE', `${RBAC}/clusterroles/${role}`);
      if (rules === null) return;
      await this.create(`${RBAC}/clusterroles`, { metadata: { name: role }, rules });
      await this.create(`${RBAC}/clusterrolebindings`, {
        metadata: { name: role },
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role },
        subjects: [{ kind: 'ServiceAccount', name, namespace }],
      });
    };
    return { token, grant };
  }

  /** Writes a kubeconfig: the administrator's or another token's, at another address if given. */
  kubeconfig({ token, port }: { token?: string; port?: number } = {}): string {
    const given = this.access.credentials();
    const { url, serverName } = this.access;
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    const own = given.certificate !== null && given.key !== null ? {
      'client-certificate-data': base64(given.certificate), 'client-key-data': base64(given.key),
    } : {};
    const bearer = token ?? given.token;
    const host = url.hostname.replace(/^\[|\]$/g, '');
    const cluster = {
      server: port === undefined ? url.origin : `${url.protocol}//${RELAY_HOST}:${port}`,
      ...(given.ca === null ? {} : { 'certificate-authority-data': base64(given.ca) }),
      ...(port === undefined || host === RELAY_HOST ? {}
        : { 'tls-server-name': serverName ?? host }),
    };
    this.#files += 1;
    const path = join(this.#folder, `kubeconfig-${this.#files}`);
    writeFileSync(path, JSON.stringify({
      apiVersion: 'v1', kind: 'Config', 'current-context': 'c',
      clusters: [{ name: 'c', cluster }],
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
      users: [{ name: 'u', user: bearer === null ? own
        : { ...(token === undefined ? own : {}), token: bearer } }],
    }), { mode: 0o600 });
    return path;
  }

  async close(): Promise<void> {
    for (const undo of this.#undo.reverse()) await undo().catch(() => {});
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Waits for a condition on a server's answers. */
export async function eventually(what: string, isSo: () => boolean | Promise<boolean>)
  : Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!await isSo()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
  }
}

/** A relay in front of a server whose connections can be cut or stopped. */
export class Relay {
  readonly #server: Server;
  readonly #pairs = new Set<[Socket, Socket]>();
  port = 0;

  private constructor(host: string, port: number) {
    this.#server = createServer((near) => {
      const far = connect(port, host);
      const pair: [Socket, Socket] = [near, far];
      this.#pairs.add(pair);
      near.pipe(far).pipe(near);
      for (const socket of pair) {
        socket.on('error', () => {});
        socket.on('close', () => {
          this.#pairs.delete(pair);
          for (const other of pair) other.destroy();
        });
      }
    });
  }

  static async start({ access: { url } }: Target): Promise<Relay> {
    const port = Number(url.port || (url.protocol === 'http:' ? 80 : 443));
    const relay = new Relay(url.hostname.replace(/^\[|\]$/g, ''), port);
    await new Promise<void>((resolve) => { relay.#server.listen(0, RELAY_HOST, resolve); });
    relay.port = (relay.#server.address() as AddressInfo).port;
    return relay;
  }

  /** All connections break. */
  cut(): void {
    for (const [near] of [...this.#pairs]) near.destroy();
  }

  /** All connections live on, and no byte passes any more. */
  stop(): void {
    for (const [near, far] of this.#pairs) {
      near.unpipe(far);
      far.unpipe(near);
      far.pause();
      near.pause();
    }
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => { this.#server.close(resolve); });
  }
}

/** Shows something of a test server, which begins and ends with it. */
export async function onTestServer(
  version: ServerVersion, behave: (target: Target) => Promise<void>,
): Promise<void> {
  const server = new TestApiServer({ version });
  await server.start();
  const target = new Target(server.kubeconfig({ token: ADMIN_TOKEN }));
  try {
    await behave(target);
  } finally {
    await target.close();
    await server.close();
  }
}
