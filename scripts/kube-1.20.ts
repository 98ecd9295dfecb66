// The oldest API server that Culvert works with, kube-apiserver 1.20, built from Debian's own
// source package, and the tests of test/sync/kubernetes/real-server.test.ts against it:
//
//   node dist/scripts/kube-1.20.js            builds once, then tests
//   node dist/scripts/kube-1.20.js --serve    keeps the server running; KUBECONFIG is printed
//   node dist/scripts/kube-1.20.js --fetch    only downloads
//
// A slow lane that nothing else waits for: the build takes eight minutes of one CPU and 3 GB of
// disk. Source, compiler and etcd are Debian 12's, unpacked below ~/.cache/culvert/kube-1.20, where
// all of it stays; nothing is installed. The machine needs apt-get, dpkg-source, make, patch and
// gcc.

import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync }
  from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TLS = join(ROOT, 'test', 'golden', 'tls');
const TEST = join(ROOT, 'dist', 'test', 'sync', 'kubernetes', 'real-server.test.js');
const CACHE = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'),
  'culvert', 'kube-1.20');
const SERVER = join(CACHE, 'kube-apiserver');
const TOOLS = join(CACHE, 'tools');
const GO = join(TOOLS, 'usr', 'lib', 'go-1.19');
const RELEASE = 'bookworm';
const DEBIAN_KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg';
const PACKAGES = ['golang-1.19-go', 'golang-1.19-src', 'etcd-server', 'rsync', 'libpopt0'];
const TOKEN = 'test-admin-token';
const START_LIMIT_MS = 120_000;
const POLL_MS = 250;

/** Runs a program to its end, with its output on standard error. */
function run(program: string, args: readonly string[], cwd = CACHE,
  env: Record<string, string> = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd, stdio: ['ignore', process.stderr, process.stderr], env: { ...process.env, ...env },
    });
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`${program} ${args[0] ?? ''} ended with ${code}`));
    });
  });
}

/** Where this machine takes its packages of the release from. */
function mirror(): string {
  const targets = execFileSync('apt-get', ['indextargets', '--format',
    '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)'], { encoding: 'utf8' });
  const [, uri] = targets.split('\n').map((line) => line.split(' '))
    .find(([kind, , release, part]) =>
      kind === 'Packages' && release === RELEASE && part === 'main') ?? [];
  if (uri === undefined) throw new Error(`this machine has no packages of Debian ${RELEASE}`);
  return uri;
}

/** Package lists and archives of our own, beside those of the machine. */
function aptOptions(): string[] {
  return [
    `Dir::State::lists=${CACHE}/lists`, `Dir::Cache::archives=${CACHE}/archives`,
    `Dir::Etc::SourceList=${CACHE}/sources.list`, 'Dir::Etc::SourceParts=/dev/null',
    'Dir::Cache::pkgcache=', 'Dir::Cache::srcpkgcache=', 'Debug::NoLocking=1',
    'APT::Sandbox::User=root', 'Acquire::Languages=none',
  ].flatMap((option) => ['-o', option]);
}

/** Downloads the source and the tools, and unpacks them. */
async function fetch(): Promise<void> {
  if (existsSync(join(CACHE, 'fetched'))) return;
  mkdirSync(join(CACHE, 'lists', 'partial'), { recursive: true });
  mkdirSync(join(CACHE, 'archives', 'partial'), { recursive: true });
  const from = `[signed-by=${DEBIAN_KEYS}] ${mirror()} ${RELEASE} main\n`;
  writeFileSync(join(CACHE, 'sources.list'), `deb ${from}deb-src ${from}`);
  await run('apt-get', [...aptOptions(), 'update']);
  await run('apt-get', [...aptOptions(), 'source', '--download-only', 'kubernetes']);
  await run('apt-get', [...aptOptions(), 'download', ...PACKAGES], join(CACHE, 'archives'));
  const archives = readdirSync(join(CACHE, 'archives')).filter((name) => name.endsWith('.deb'));
  for (const name of archives) {
    await run('dpkg-deb', ['-x', join(CACHE, 'archives', name), TOOLS]);
  }
  const source = readdirSync(CACHE).find((name) => name.endsWith('.dsc')) ?? '';
  rmSync(join(CACHE, 'source'), { recursive: true, force: true });
  await run('dpkg-source', ['--no-check', '-x', source, 'source']);
  writeFileSync(join(CACHE, 'fetched'), '');
}

async function build(): Promise<void> {
  if (existsSync(SERVER)) return;
  const versions = join(CACHE, 'version');
  writeFileSync(versions, [
    "KUBE_GIT_COMMIT='unknown'", "KUBE_GIT_TREE_STATE='archive'", "KUBE_GIT_VERSION='v1.20.2'",
    "KUBE_GIT_MAJOR='1'", "KUBE_GIT_MINOR='20'", '',
  ].join('\n'));
  await run('nice', ['make', 'WHAT=cmd/kube-apiserver'], join(CACHE, 'source'), {
    GOROOT: GO, PATH: `${GO}/bin:${TOOLS}/usr/bin:${process.env['PATH'] ?? ''}`,
    LD_LIBRARY_PATH: join(TOOLS, 'usr', 'lib', 'x86_64-linux-gnu'),
    GOPROXY: 'off', CGO_ENABLED: '0', GOFLAGS: '-p=1', GOCACHE: join(CACHE, 'go-cache'),
    KUBE_GIT_VERSION_FILE: versions,
  });
  const made = join(CACHE, 'source', '_output', 'bin', 'kube-apiserver');
  renameSync(made, SERVER);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => { server.close(resolve); });
  return port;
}

/** Starts etcd and the server; both end with this process. */
async function serve(folder: string): Promise<{ kubeconfig: string; stop: () => void }> {
  const [storage, peers, port] = [await freePort(), await freePort(), await freePort()];
  const children: ChildProcess[] = [];
  const stop = (): void => { for (const child of children) child.kill('SIGKILL'); };
  process.on('exit', stop);
  const begin = (program: string, args: string[]): void => {
    children.push(spawn(program, args, { cwd: folder, stdio: 'ignore' }));
  };
  begin(join(TOOLS, 'usr', 'bin', 'etcd'), [
    '--data-dir', join(folder, 'etcd'), '--unsafe-no-fsync', '--log-level', 'error',
    '--listen-client-urls', `http://127.0.0.1:${storage}`,
    '--advertise-client-urls', `http://127.0.0.1:${storage}`,
    '--listen-peer-urls', `http://127.0.0.1:${peers}`,
  ]);
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048,
    privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' } });
  const key = join(folder, 'accounts.pem');
  writeFileSync(key, privateKey, { mode: 0o600 });
  writeFileSync(join(folder, 'tokens.csv'), `${TOKEN},admin,admin,"system:masters"\n`,
    { mode: 0o600 });
  begin(SERVER, [
    `--etcd-servers=http://127.0.0.1:${storage}`, '--bind-address=127.0.0.1',
    `--secure-port=${port}`, '--advertise-address=127.0.0.1',
    `--tls-cert-file=${join(TLS, 'server.pem')}`,
    `--tls-private-key-file=${join(TLS, 'server-key.pem')}`,
    `--client-ca-file=${join(TLS, 'ca.pem')}`, '--token-auth-file=tokens.csv',
    '--authorization-mode=Node,RBAC', '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${key}`, `--service-account-signing-key-file=${key}`,
    '--disable-admission-plugins=ServiceAccount', '--service-cluster-ip-range=10.196.0.0/16',
    '--endpoint-reconciler-type=none', `--cert-dir=${folder}`,
  ]);
  const kubeconfig = join(folder, 'kubeconfig');
  const url = `https://127.0.0.1:${port}`;
  writeFileSync(kubeconfig, JSON.stringify({
    apiVersion: 'v1', kind: 'Config', 'current-context': 'c',
    clusters: [{ name: 'c', cluster: { server: url,
      'certificate-authority-data': readFileSync(join(TLS, 'ca.pem')).toString('base64') } }],
    users: [{ name: 'u', user: { token: TOKEN } }],
    contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
  }), { mode: 0o600 });
  await ready(url);
  return { kubeconfig, stop };
}

/** Waits until the server says that it is ready. */
async function ready(url: string): Promise<void> {
  const { request } = await import('node:https');
  const ca = readFileSync(join(TLS, 'ca.pem'));
  const deadline = Date.now() + START_LIMIT_MS;
  for (;;) {
    const isReady = await new Promise<boolean>((resolve) => {
      const asked = request(`${url}/readyz`, { ca, agent: false },
        (answer) => { answer.resume(); resolve(answer.statusCode === 200); });
      asked.on('error', () => resolve(false));
      asked.end();
    });
    if (isReady) return;
    if (Date.now() > deadline) throw new Error('the server does not become ready');
    await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
  }
}

async function main(words: readonly string[]): Promise<void> {
  mkdirSync(CACHE, { recursive: true });
  await fetch();
  if (words.includes('--fetch')) return;
  await build();
  const folder = join(CACHE, `run-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  const { kubeconfig, stop } = await serve(folder);
  try {
    process.stdout.write(`KUBECONFIG=${kubeconfig}\n`);
    if (words.includes('--serve')) {
      await new Promise((resolve) => { process.once('SIGINT', resolve); });
    } else {
      await run(process.execPath, ['--enable-source-maps', TEST], ROOT, { KUBECONFIG: kubeconfig });
    }
  } finally {
    stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

await main(process.argv.slice(2));
