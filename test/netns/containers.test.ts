// The containers of deploy/kubernetes as far as a machine without an image can have them: their
// arguments, variables, users, capabilities and read-only roots, each in a mount namespace of its
// own; and a pod that a CNI plugin with all rights attaches, as a runtime on the node does it.
//
//     [ holder ]  [ node: CAP_NET_ADMIN ]  [ sync: uid 65532, nothing ]      eth0 192.0.2.1
//         |            |  |     \                |      \
//         +- holder.sock  |      +- sync.sock ---+       +- API server, by the loopback
//                         +- TUN -> pod 10.244.1.x

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseAllDocuments } from 'yaml';
import { Bed, type Host } from '../../cli/demo/bed.ts';
import { ask } from '../../cli/client.ts';
import { installPlugin } from '../../cni/install.ts';
import { StatusReportSchema, type StatusReport } from '../../engine/model.ts';
import { READER_RULES, TestApiServer } from '../support/api-server/server.ts';
import { CLI } from '../support/command.ts';
import { until } from '../support/until.ts';
import { printSkip, testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';
import { relay } from './support/kube-lab.ts';

const test = suite('netns/containers');
const BASE = join(ROOT, 'deploy', 'kubernetes', 'base');
const NET_ADMIN = 1n << 12n;
const SIDECAR = 65532;

interface Container {
  name: string;
  args?: string[];
  command?: string[];
  env?: { name: string; valueFrom: { fieldRef?: { fieldPath: string } } }[];
  securityContext: {
    runAsUser: number; runAsGroup?: number; capabilities: { add?: string[] };
  };
  volumeMounts: { mountPath: string; readOnly?: boolean }[];
}

interface Manifest {
  kind: string;
  data?: Record<string, string>;
  spec?: { template: { spec: { initContainers?: Container[]; containers: Container[] } } };
}

function read(file: string): Manifest[] {
  return parseAllDocuments(readFileSync(join(BASE, file), 'utf8'))
    .map((document) => document.toJS() as Manifest);
}

const containers = [...read('holder.yaml'), ...read('node.yaml')].flatMap(({ spec }) =>
  [...spec?.template.spec.initContainers ?? [], ...spec?.template.spec.containers ?? []]);

/** The node and all that runs on it. */
class Node {
  readonly bed: Bed;
  readonly host: Host;
  readonly server: TestApiServer;
  readonly #processes = new Map<string, ChildProcess>();
  readonly #onExit = (): void => {
    for (const child of this.#processes.values()) child.kill('SIGKILL');
  };
  readonly #onSignal = (): void => process.exit(1);
  readonly #relay: { close(): unknown };
  log = '';

  private constructor(bed: Bed, host: Host, server: TestApiServer) {
    this.bed = bed;
    this.host = host;
    this.server = server;
    this.#relay = relay(host, Number(new URL(server.url).port));
    process.once('exit', this.#onExit);
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, this.#onSignal);
  }

  static async create(): Promise<Node> {
    const server = new TestApiServer();
    await server.start();
    const bed = await Bed.create();
    const { host } = await bed.addNode('node-1', { ipv4: '192.0.2.1', ipv6: '2001:db8::1' });
    const node = new Node(bed, host, server);
    node.#prepare();
    return node;
  }

  /** What stands for a path of the containers. */
  path(inside: string): string {
    return join(this.bed.folder, inside.replaceAll('/', '_'));
  }

  /** Starts a container with what its manifest says. */
  start(name: string): ChildProcess {
    const { env = [], securityContext, ...container } = this.#container(name);
    const { runAsUser, runAsGroup = 0, capabilities: { add = [] } } = securityContext;
    const variables: Record<string, string> = {
      API_SERVER: this.server.url, CULVERT_NODE_NAME: 'node-1',
      CULVERT_UNDERLAY_ADDRESSES: '192.0.2.1',
    };
    const command = (container.command ?? [process.execPath, CLI, ...container.args ?? []])
      .map((word) => this.#mapped(word).replace(/\$\(([A-Z_]+)\)/g, (_, key: string) =>
        variables[key] ?? ''));
    const bounding = ['-all', ...add.map((word) => `+${word.toLowerCase()}`)].join();
    const child = this.host.namespace.run(() => spawn('unshare', [
      '--mount', '--propagation', 'private', 'sh', '-ec', this.#mounts(name), 'sh', 'setpriv',
      '--reuid', `${runAsUser}`, '--regid', `${runAsGroup}`, '--clear-groups',
      '--inh-caps=-all', `--bounding-set=${bounding}`, '--no-new-privs', ...command,
    ], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: {
        PATH: process.env['PATH'],
        ...Object.fromEntries(env.map((variable) => [variable.name, variables[variable.name]])),
      },
    }));
    child.stderr?.on('data', (chunk: Buffer) => { this.log += chunk.toString(); });
    this.#processes.set(name, child);
    return child;
  }

  /** Uid and effective capabilities of a container's process. */
  rights(name: string): { uid: number; capabilities: bigint } {
    const text = readFileSync(`/proc/${this.#processes.get(name)?.pid}/status`, 'utf8');
    const field = (key: string): string =>
      new RegExp(`^${key}:\\s+(\\S+)`, 'm').exec(text)?.[1] ?? '';
    return { uid: Number(field('Uid')), capabilities: BigInt(`0x${field('CapEff')}`) };
  }

  status(): Promise<StatusReport | null> {
    return ask(this.path('/run/culvert'), 'status', null, StatusReportSchema).catch(() => null);
  }

  /** Ends a container as a runtime does. */
  async end(name: string): Promise<void> {
    const child = this.#processes.get(name);
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    await ended;
  }

  async close(): Promise<void> {
    for (const name of ['sync', 'node', 'holder']) await this.end(name);
    this.#relay.close();
    await this.bed.close();
    await this.server.close();
    process.off('exit', this.#onExit);
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, this.#onSignal);
  }

  #container(name: string): Container {
    const found = containers.find((candidate) => candidate.name === name);
    if (found === undefined) throw new Error(`there is no container ${name}`);
    return found;
  }

  /** Words with paths of containers in them, as paths of this machine. */
  #mapped(text: string): string {
    const inside = /\/(run\/culvert|etc\/culvert|etc\/kube-flannel|var\/lib\/culvert)(?=\/|$|=)/gm;
    return text.replace(inside, (path) => this.path(path))
      .replace('/opt/culvert/', `${join(ROOT, 'deploy', 'kubernetes')}/`);
  }

  /** A read-only root, with the volumes that may be written; the token of the service account. */
  #mounts(name: string): string {
    const volumes = this.#container(name).volumeMounts;
    const paths = volumes.map(({ mountPath }) => mountPath);
    const writable = volumes.filter(({ readOnly, mountPath }) =>
      readOnly !== true && mountPath !== '/dev/net/tun')
      .map(({ mountPath }) => this.path(mountPath));
    const account = paths.find((path) => path.includes('serviceaccount'));
    return [
      ...writable.map((path) => `mount --bind ${path} ${path}`),
      ...account === undefined ? [] : [
        'mount -t tmpfs tmpfs /run', `mkdir -p ${account}`,
        `mount --bind ${this.path('account')} ${account}`,
      ],
      'mount -o remount,bind,ro /', 'exec "$@"',
    ].join('\n');
  }

  #prepare(): void {
    chmodSync(this.bed.folder, 0o755);
    for (const inside of ['/run/culvert', '/etc/culvert', '/etc/kube-flannel', '/var/lib/culvert',
      'account']) mkdirSync(this.path(inside), { mode: 0o755 });
    const config = read('config.yaml')[0]?.data?.['config.yaml'] ?? '';
    writeFileSync(join(this.path('/etc/culvert'), 'config.yaml'), this.#mapped(config)
      .replace('memory: standard', 'memory: small'));
    writeFileSync(join(this.path('/etc/kube-flannel'), 'net-conf.json'),
      '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}');
    const { server } = this;
    writeFileSync(join(this.path('account'), 'token'), server.token);
    writeFileSync(join(this.path('account'), 'ca.crt'), server.ca);
    server.grant('engine', [
      ...READER_RULES, { apiGroups: [''], resources: ['nodes/status'], verbs: ['patch'] },
    ]);
    server.create('nodes', {
      metadata: { name: 'node-1' },
      spec: { podCIDR: '10.244.1.0/24', podCIDRs: ['10.244.1.0/24'] },
      status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
    });
    server.create('namespaces', { metadata: { name: 'shop' } });
    server.create('pods', {
      metadata: { name: 'web', namespace: 'shop', uid: 'uid-web' },
      spec: { nodeName: 'node-1' }, status: { phase: 'Pending' },
    });
  }
}

const hasTools = spawnSync('setpriv', ['--version']).status === 0
  && spawnSync('unshare', ['--version']).status === 0;

let made: Node | null = null;
test.after(() => made?.close());

/** Adds a test, where the machine has what containers are made of here. */
function containerTest(name: string, work: () => Promise<void>): void {
  if (hasTools) return testNeeding('tun', test, name, work);
  test.skip(name, work);
  printSkip(name, 'unshare and setpriv of util-linux are needed');
}

containerTest('containers start in their order, with their rights alone', async () => {
  made = await Node.create();
  const node = made;
  const waiting = node.start('wait');
  node.start('holder');
  await until('the holder', () => waiting.exitCode !== null);
  assert.is(waiting.exitCode, 0, node.log);
  node.start('node');
  node.start('sync');
  try {
    await until('the state', async () => {
      const status = await node.status();
      return status !== null && status.sync.connected && status.sync.revision !== null;
    });
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${node.log}`);
  }
  assert.equal(node.rights('holder'), { uid: 0, capabilities: 0n });
  assert.equal(node.rights('node'), { uid: 0, capabilities: NET_ADMIN });
  assert.equal(node.rights('sync'), { uid: SIDECAR, capabilities: 0n });
  const status = await node.status();
  assert.is(status?.handover.keeper, 'holder');
  assert.equal(status?.sync.problems, []);
  await until('the annotations', () => node.server.get('nodes', 'node-1')
    ?.metadata.annotations?.['flannel.alpha.coreos.com/public-ip'] === '192.0.2.1');
});

containerTest('a pod is attached by the plugin, and answers', async () => {
  const node = made;
  if (node === null) return;
  const pod = node.bed.addHost('web');
  const bin = join(node.bed.folder, 'bin');
  installPlugin({
    binDirectory: bin, configDirectory: join(node.bed.folder, 'net.d'), networkName: 'pods',
    runtimeDirectory: node.path('/run/culvert'), portmap: false,
  }, { bundle: join(ROOT, 'dist/cni/culvert.cjs'), packageFolder: ROOT, node: process.execPath });
  const { status, stdout } = node.host.namespace.run(() => spawnSync(join(bin, 'culvert'), {
    input: JSON.stringify({
      cniVersion: '1.0.0', name: 'pods', type: 'culvert',
      runtimeDirectory: node.path('/run/culvert'),
    }),
    env: {
      PATH: process.env['PATH'], CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'web', CNI_IFNAME: 'eth0',
      CNI_NETNS: pod.namespace.path, CNI_PATH: bin,
      CNI_ARGS: 'K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=uid-web',
    },
    encoding: 'utf8',
  }));
  assert.is(status, 0, stdout + node.log);
  const { ips } = JSON.parse(stdout) as { ips: { address: string }[] };
  const address = ips[0]?.address.split('/')[0] ?? '';
  const answer = await node.host.agent.ask({ verb: 'ping', address, size: 56, timeoutMs: 5000 });
  assert.ok(answer.ok, answer.detail);
});

containerTest('a new pod of the DaemonSet goes on with the devices', async () => {
  const node = made;
  if (node === null) return;
  await node.end('sync');
  await node.end('node');
  node.start('node');
  node.start('sync');
  await until('the state', async () => (await node.status())?.sync.revision !== null
    && (await node.status()) !== null);
  const status = await node.status();
  assert.equal([status?.handover.pods, status?.handover.lostPods], [1, 0]);
});

test.run();
