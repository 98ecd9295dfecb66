// Where the server is and who we are: pods, kubeconfig files, explicit addresses, files that are
// replaced, and everything that is refused with a reason.

import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadAccess } from '../../../sync/kubernetes/access.ts';
import type { Access, AccessOptions } from '../../../sync/kubernetes/access.ts';

const test = suite('access');
const root = mkdtempSync(join(tmpdir(), `culvert-access-${process.pid}-`));
test.after(() => rmSync(root, { recursive: true }));

let count = 0;
function folder(files: Record<string, string>): string {
  count += 1;
  const path = join(root, String(count));
  mkdirSync(path);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text);
  return path;
}

const base64 = (text: string): string => Buffer.from(text).toString('base64');

function load(options: Partial<AccessOptions>): Access {
  return loadAccess({ environment: {}, ...options });
}

/** A kubeconfig file with one context. */
function kubeconfig(cluster: object, user: object, files: Record<string, string> = {}): string {
  const config = {
    'current-context': 'here',
    'contexts': [{ name: 'here', context: { cluster: 'c', user: 'u' } }],
    'clusters': [{ name: 'c', cluster }],
    'users': [{ name: 'u', user }],
  };
  return join(folder({ ...files, config: JSON.stringify(config) }), 'config');
}

const SERVER = { server: 'https://192.0.2.1:6443' };

test('a pod has its service account', () => {
  const serviceAccount = folder({ 'token': 'one\n', 'ca.crt': 'CA' });
  const environment = { KUBERNETES_SERVICE_HOST: '10.96.0.1', KUBERNETES_SERVICE_PORT: '443' };
  const access = load({ environment, serviceAccount });
  assert.is(access.url.href, 'https://10.96.0.1/');
  assert.equal(access.credentials(), { token: 'one', ca: 'CA', certificate: null, key: null });
  const six = load({ environment: { KUBERNETES_SERVICE_HOST: 'fd00::1' }, serviceAccount });
  assert.is(six.url.host, '[fd00::1]');
  const explicit = load({ environment, serviceAccount, apiServer: 'https://192.0.2.9:6443' });
  assert.is(explicit.url.origin, 'https://192.0.2.9:6443');
  assert.is(explicit.credentials().token, 'one');
  const alone = load({ serviceAccount, apiServer: 'https://[2001:db8::1]:6443' });
  assert.is(alone.url.origin, 'https://[2001:db8::1]:6443');
});

test('files that change are read again, and one that is gone for a moment counts on', () => {
  const path = folder({ 'token': 'one', 'ca.crt': 'CA' });
  const access = load({ apiServer: 'https://192.0.2.1', serviceAccount: path });
  assert.is(access.credentials().token, 'one');
  writeFileSync(join(path, 'next'), 'two');
  renameSync(join(path, 'next'), join(path, 'token'));
  assert.is(access.credentials().token, 'two');
  rmSync(join(path, 'token'));
  assert.is(access.credentials().token, 'two');
  writeFileSync(join(path, 'token'), 'three');
  assert.is(access.credentials().token, 'three');
});

test('a kubeconfig has a token, or files', () => {
  const ca = { 'certificate-authority-data': base64('CA') };
  const token = load({ kubeconfig: kubeconfig({ ...SERVER, ...ca }, { token: 'secret' }) });
  assert.is(token.url.origin, 'https://192.0.2.1:6443');
  assert.equal(token.credentials(), { token: 'secret', ca: 'CA', certificate: null, key: null });
  const files = load({
    kubeconfig: kubeconfig(
      { ...SERVER, 'certificate-authority': 'ca.pem', 'tls-server-name': 'api' },
      { 'tokenFile': 'token', 'token': 'older', 'client-certificate': 'me.pem',
        'client-key-data': base64('KEY') },
      { 'ca.pem': 'CA', 'token': 'fresh', 'me.pem': 'CERT' }),
  });
  assert.is(files.serverName, 'api');
  assert.equal(files.credentials(), { token: 'fresh', ca: 'CA', certificate: 'CERT', key: 'KEY' });
});

test('a context is chosen by name, and the address may be another', () => {
  const path = join(folder({
    config: `
current-context: a
contexts:
- {name: a, context: {cluster: one, user: u}}
- {name: b, context: {cluster: two}}
clusters:
- {name: one, cluster: {server: https://192.0.2.1}}
- {name: two, cluster: {server: https://192.0.2.2}}
users:
- {name: u, user: {token: t}}
`,
  }), 'config');
  assert.is(load({ kubeconfig: path }).url.host, '192.0.2.1');
  const other = load({ kubeconfig: path, context: 'b' });
  assert.is(other.url.host, '192.0.2.2');
  assert.is(other.credentials().token, null);
  assert.is(load({ environment: { KUBECONFIG: path } }).url.host, '192.0.2.1');
  const explicit = load({ kubeconfig: path, apiServer: 'http://127.0.0.1:8001/prefix' });
  assert.is(explicit.url.href, 'http://127.0.0.1:8001/prefix');
});

test('what is refused is named, with the place and a way out', () => {
  const refuse = (options: Partial<AccessOptions>, reason: RegExp): void => {
    assert.throws(() => load(options), reason);
  };
  const user = (fields: object): Partial<AccessOptions> => ({
    kubeconfig: kubeconfig(SERVER, fields) });
  const cluster = (fields: object): Partial<AccessOptions> => ({
    kubeconfig: kubeconfig(fields, { token: 't' }) });
  refuse({}, /no API server is known.*--kubeconfig FILE or --api-server URL/);
  refuse({ apiServer: 'https://192.0.2.1', serviceAccount: '/nowhere' },
    /read \/nowhere\/token: ENOENT/);
  refuse({ kubeconfig: '/nowhere' }, /read kubeconfig \/nowhere: ENOENT/);
  refuse({ context: 'a' }, /context a: there is no kubeconfig/);
  refuse({ kubeconfig: join(folder({ config: 'a: [' }), 'config') }, /kubeconfig .*config: /);
  refuse({ kubeconfig: join(folder({ config: '{}' }), 'config') }, /no context is named/);
  refuse({ kubeconfig: kubeconfig(SERVER, {}), context: 'x' }, /context x is not in the list/);
  refuse(user({ exec: { command: 'x' } }), /user u: exec: .*use a token/);
  refuse(user({ 'auth-provider': { name: 'oidc' } }), /auth-provider: sign-in/);
  refuse(user({ username: 'a', password: 'b' }), /username: a user with a password/);
  refuse(user({ as: 'admin' }), /as: impersonation/);
  refuse(user({ 'client-key-data': '!' }), /client-key-data: not base64/);
  refuse(user({ token: 5 }), /user u: token: /);
  refuse(cluster({ server: 'https://192.0.2.1', 'insecure-skip-tls-verify': true }),
    /cluster c: insecure-skip-tls-verify: /);
  refuse(cluster({ 'server': 'https://192.0.2.1', 'proxy-url': 'http://x' }), /proxy-url/);
  refuse(cluster({ server: 'http://192.0.2.1' }), /http is for the loopback address only/);
  refuse(cluster({ server: 'ftp://192.0.2.1' }), /not a URL like https/);
  refuse(cluster({}), /cluster c: server: missing/);
  const loopback = load(cluster(
    { 'server': 'http://127.0.0.1:8080', 'insecure-skip-tls-verify': true }));
  assert.is(loopback.url.protocol, 'http:');
});

test.run();
