// A kubeconfig file (k8s.io/client-go/tools/clientcmd/api/v1): a context leads to a cluster and a
// user. Tokens, client certificates and CAs are taken, as data or as files; ways in which a program
// has to be run or a web page visited are refused by name.

import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import * as v from 'valibot';
import { parse } from 'yaml';
import { parseShape } from '../../engine/shape.ts';
import { maybe } from '../fields.ts';
import type { AccessParts, Secret } from './access.ts';

const Text = maybe(v.string());

const ClusterSchema = v.object({
  'server': v.string(),
  'certificate-authority': Text,
  'certificate-authority-data': Text,
  'insecure-skip-tls-verify': maybe(v.boolean()),
  'tls-server-name': Text,
  'proxy-url': Text,
});
type Cluster = v.InferOutput<typeof ClusterSchema>;

const UserSchema = v.object({
  'token': Text,
  'tokenFile': Text,
  'client-certificate': Text,
  'client-certificate-data': Text,
  'client-key': Text,
  'client-key-data': Text,
  'username': Text,
  'exec': maybe(v.unknown()),
  'auth-provider': maybe(v.unknown()),
  'as': Text,
});
type User = v.InferOutput<typeof UserSchema>;

function named<S extends v.GenericSchema>(field: string, schema: S) {
  return maybe(v.array(v.object({ name: v.string(), [field]: schema })));
}

const KubeconfigSchema = v.object({
  'clusters': named('cluster', maybe(v.unknown())),
  'users': named('user', maybe(v.unknown())),
  'contexts': named('context', maybe(v.object({ cluster: v.string(), user: Text }))),
  'current-context': Text,
});
type Kubeconfig = v.InferOutput<typeof KubeconfigSchema>;

/** What a user may have, and we do not do. */
const FOREIGN_WAYS = {
  'exec': 'a program that gives credentials is not run',
  'auth-provider': 'sign-in at a provider is not done',
  'username': 'a user with a password is not sent',
  'as': 'impersonation is not done',
} as const;
const INSTEAD = 'use a token, a tokenFile or a client certificate';

/** Reads the file. Throws with file, field and reason. */
export function readKubeconfig(file: string, contextName?: string): AccessParts {
  const config = parseShape(KubeconfigSchema, readYaml(file), `kubeconfig ${file}`);
  const name = contextName ?? config['current-context'] ?? '';
  if (name === '') throw new Error(`kubeconfig ${file}: no context is named, and none is current`);
  const context = find(config, 'contexts', 'context', name, file);
  const { cluster: clusterName, user: userName = '' } = parseShape(
    v.object({ cluster: v.string(), user: Text }), context, `kubeconfig ${file}: context ${name}`);
  const place = `kubeconfig ${file}: cluster ${clusterName}`;
  const cluster = parseShape(ClusterSchema,
    find(config, 'clusters', 'cluster', clusterName, file), place);
  refuseCluster(cluster, place);
  const origin = `kubeconfig ${file}: context ${name}`;
  const { server, 'tls-server-name': serverName = null } = cluster;
  return { server, serverName, origin, secrets: secretsOf(config, file, cluster, userName) };
}

function secretsOf(
  config: Kubeconfig, file: string, cluster: Cluster, userName: string,
): AccessParts['secrets'] {
  const place = `kubeconfig ${file}: user ${userName}`;
  const user: User = userName === '' ? {} as User
    : parseShape(UserSchema, find(config, 'users', 'user', userName, file), place);
  for (const [field, reason] of Object.entries(FOREIGN_WAYS)) {
    if (user[field as keyof User] !== undefined) {
      throw new Error(`${place}: ${field}: ${reason}; ${INSTEAD}`);
    }
  }
  const folder = dirname(resolve(file));
  const secret = (data: string | undefined, path: string | undefined, field: string): Secret => {
    if (data) return { text: fromBase64(data, `${place}: ${field}`) };
    return path ? { file: resolve(folder, path) } : null;
  };
  const tokenFile = secret(undefined, user.tokenFile, 'tokenFile');
  return {
    // A token file wins over a token beside it, as in client-go.
    token: tokenFile ?? (user.token ? { text: user.token } : null),
    ca: secret(cluster['certificate-authority-data'], cluster['certificate-authority'],
      'certificate-authority-data'),
    certificate: secret(user['client-certificate-data'], user['client-certificate'],
      'client-certificate-data'),
    key: secret(user['client-key-data'], user['client-key'], 'client-key-data'),
  };
}

function refuseCluster(cluster: Cluster, place: string): void {
  const isPlain = cluster.server.startsWith('http:');
  if (cluster['insecure-skip-tls-verify'] === true && !isPlain) {
    throw new Error(`${place}: insecure-skip-tls-verify: a server that is not verified could say `
      + 'anything; give its CA as certificate-authority-data');
  }
  if (cluster['proxy-url']) throw new Error(`${place}: proxy-url: proxies are not used`);
}

function find(
  config: Kubeconfig, list: 'clusters' | 'users' | 'contexts', field: string, name: string,
  file: string,
): unknown {
  const found = config[list]?.find((item) => item['name'] === name);
  if (found !== undefined) return Reflect.get(found, field);
  throw new Error(`kubeconfig ${file}: ${field} ${name} is not in the list ${list}`);
}

function readYaml(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
    throw new Error(`read kubeconfig ${file}: ${String(code ?? error)}`, { cause: error });
  }
  try {
    return parse(text);
  } catch (error) {
    const [reason = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new Error(`kubeconfig ${file}: ${reason}`, { cause: error });
  }
}

function fromBase64(data: string, place: string): string {
  const text = data.replace(/\s/g, '');
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(text)) throw new Error(`${place}: not base64`);
  return Buffer.from(text, 'base64').toString();
}
