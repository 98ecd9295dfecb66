// Where the API server is, and who we are to it.
//
// The order is kubectl's: a kubeconfig file that is named, the one that KUBECONFIG names, else the
// files that every pod gets of its service account. An explicit server address replaces the one
// found: the address of the Service `kubernetes` is of no use before Services work.
//
// Files of tokens and certificates are replaced while we run (a token lives for about an hour), so
// each use looks whether they have changed.

import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readKubeconfig } from './kubeconfig.ts';

export const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';

export interface AccessOptions {
  /** A kubeconfig file, and the context in it where it is not the current one. */
  kubeconfig?: string | undefined;
  context?: string | undefined;
  /** The address of the server, as a URL. */
  apiServer?: string | undefined;
  environment: Readonly<Record<string, string | undefined>>;
  /** Where the files of the service account are. */
  serviceAccount?: string;
}

/** What a connection needs. PEM texts; a missing CA means those that the system trusts. */
export interface Credentials {
  token: string | null;
  ca: string | null;
  certificate: string | null;
  key: string | null;
}

/** A text that stands in the configuration, or in a file. */
export type Secret = { text: string } | { file: string } | null;

export interface AccessParts {
  server: string;
  /** The name in the server's certificate, where it is not the host of the address. */
  serverName: string | null;
  secrets: Record<keyof Credentials, Secret>;
  /** How messages name the source of all this. */
  origin: string;
}

export class Access {
  readonly url: URL;
  readonly serverName: string | null;
  readonly origin: string;
  readonly #texts: Record<keyof Credentials, FreshText>;

  /** Throws for an address that we do not connect to. */
  constructor({ server, serverName, secrets, origin }: AccessParts) {
    this.url = serverUrl(server, origin);
    this.serverName = serverName;
    this.origin = origin;
    this.#texts = {
      token: new FreshText(secrets.token),
      ca: new FreshText(secrets.ca),
      certificate: new FreshText(secrets.certificate),
      key: new FreshText(secrets.key),
    };
  }

  /** What counts now. Throws where a file was never readable. */
  credentials(): Credentials {
    return {
      token: this.#texts.token.read()?.trim() ?? null,
      ca: this.#texts.ca.read(),
      certificate: this.#texts.certificate.read(),
      key: this.#texts.key.read(),
    };
  }
}

/** Finds the server. Throws with a reason that an operator can act on. */
export function loadAccess(options: AccessOptions): Access {
  const { apiServer, context, environment } = options;
  const kubeconfig = options.kubeconfig ?? (environment['KUBECONFIG'] || undefined);
  if (kubeconfig === undefined && context !== undefined) {
    throw new Error(`context ${context}: there is no kubeconfig file that could have it`);
  }
  const parts = kubeconfig === undefined ? serviceAccountParts(options)
    : readKubeconfig(kubeconfig, context);
  const access = new Access({ ...parts, server: apiServer ?? parts.server });
  access.credentials();
  return access;
}

function serviceAccountParts(options: AccessOptions): AccessParts {
  const { environment, apiServer, serviceAccount: folder = SERVICE_ACCOUNT } = options;
  const host = environment['KUBERNETES_SERVICE_HOST'] ?? '';
  const port = environment['KUBERNETES_SERVICE_PORT'] ?? '443';
  if (host === '' && apiServer === undefined) {
    throw new Error('no API server is known: this is no pod (KUBERNETES_SERVICE_HOST is not set); '
      + 'give --kubeconfig FILE or --api-server URL');
  }
  const origin = `service account ${folder}`;
  const isPlain = apiServer?.startsWith('http:') === true;
  const none = { certificate: null, key: null };
  return {
    server: host.includes(':') ? `https://[${host}]:${port}` : `https://${host}:${port}`,
    serverName: null,
    secrets: isPlain ? { ...none, token: null, ca: null } : {
      ...none,
      token: { file: join(folder, 'token') },
      ca: { file: join(folder, 'ca.crt') },
    },
    origin,
  };
}

function serverUrl(text: string, origin: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol === 'https:') return url;
  if (url?.protocol === 'http:' && isLoopback(url.hostname)) return url;
  const reason = url?.protocol === 'http:' ? 'http is for the loopback address only'
    : 'not a URL like https://192.0.2.1:6443';
  throw new Error(`${origin}: server ${text}: ${reason}`);
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** A text that is read again when its file has changed. While a file cannot be read, the text that
 * it had last counts. */
class FreshText {
  readonly #secret: Secret;
  #text: string | null = null;
  #mark = '';

  constructor(secret: Secret) {
    this.#secret = secret;
    if (secret !== null && 'text' in secret) this.#text = secret.text;
  }

  read(): string | null {
    if (this.#secret === null || 'text' in this.#secret) return this.#text;
    const { file } = this.#secret;
    try {
      const { ino, size, mtimeMs } = statSync(file);
      const mark = `${ino} ${size} ${mtimeMs}`;
      if (mark === this.#mark) return this.#text;
      this.#text = readFileSync(file, 'utf8');
      this.#mark = mark;
    } catch (error) {
      if (this.#text === null) throw new Error(`read ${file}: ${codeOf(error)}`, { cause: error });
    }
    return this.#text;
  }
}

function codeOf(error: unknown): string {
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
  return String(code ?? error);
}
