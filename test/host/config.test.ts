// The daemon's configuration: which source wins, and that an error names the place to mend.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { stringify } from 'yaml';
import {
  ConfigError, DEFAULTS, environmentName, flagName, fromText, loadConfig, setAt, settingPaths,
  type HostConfig, type SettingPath, type Settings,
} from '../../host/config.ts';

const test = suite('host/config');
const folder = mkdtempSync(join(tmpdir(), `culvert-config-${process.pid}-`));
const FILE = join(folder, 'config.yaml');
/** The least that a configuration must say. */
const LEAST = { nodeName: 'edge-1', underlay: { interface: 'eth0' } };
const NO_VARIABLES = {};
const NET_CONF = join(folder, 'net-conf.json');
writeFileSync(NET_CONF, JSON.stringify({
  Network: '10.42.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:42::/56',
  Backend: { Type: 'vxlan', Port: 4789, MTU: 1400 },
}));

test.after(() => rmSync(folder, { recursive: true }));

function fileOf(content: string | object): string {
  writeFileSync(FILE, typeof content === 'string' ? content : stringify(content));
  return FILE;
}

/** The message of the ConfigError that loading ends with. */
function complaint(
  file: string | null, environment: Record<string, string> = {}, flags: Settings = {},
): string {
  try {
    loadConfig(file, environment, flags);
  } catch (error) {
    assert.instance(error, ConfigError);
    return (error as Error).message;
  }
  return 'no error';
}

function fileComplaint(content: string): string {
  return complaint(fileOf(content)).replace(`${FILE}:`, '');
}

/** A value that is valid for a setting and not its default, as a file has it and as text. */
function otherValue({ path, example }: SettingPath): { value: unknown; text: string } {
  const special: Record<string, unknown> = {
    nodeName: 'edge-7',
    netConf: NET_CONF,
    podNetworks: ['10.9.0.0/16', 'fd00:9::/48'],
    serviceNetworks: ['10.96.0.0/12', 'fd00:96::/112'],
    'services.empty': 'drop',
    'nodePorts.addresses': ['192.0.2.8', '2001:db8::8'],
    'nodePorts.range': '31000-31999',
    'underlay.addresses': ['192.0.2.9', '2001:db8::9'],
    'underlay.interface': 'eth9',
    'underlay.mtu': 1400,
    'dataPlane.tier': 'T1',
    'dataPlane.workers': 2,
    'http.address': '::1',
    memory: 'small',
    logLevel: 'debug',
    'policy.unknownPods': 'open',
    'cni.podCidrs': ['10.9.1.0/24', 'fd00:9:0:1::/64'],
    'debug.fault.seed': 77,
  };
  const name = path.join('.');
  let value = special[name];
  if (value === undefined && typeof example === 'number') {
    value = name.startsWith('debug.fault.') && name !== 'debug.fault.crashAfter' ? 0.25 : 9;
  }
  value ??= typeof example === 'boolean' ? !example : 'other';
  return { value, text: Array.isArray(value) ? value.join(',') : String(value) };
}

function valueAt(config: HostConfig, path: string[]): unknown {
  return path.reduce<unknown>((branch, name) => (branch as Settings)[name], config);
}

test('what no source says has its default', () => {
  const config = loadConfig(fileOf(LEAST), NO_VARIABLES, {});
  assert.equal(config, {
    ...DEFAULTS,
    stateDirectory: '/var/lib/culvert',
    nodeName: 'edge-1',
    underlay: { ...DEFAULTS.underlay, interface: 'eth0' },
  });
});

test('flags win over variables, variables over the file, the file over defaults', () => {
  const file = fileOf({ ...LEAST, underlay: { interface: 'eth0', port: 1001, sendSockets: 2 } });
  const variables = { CULVERT_UNDERLAY_PORT: '1002', CULVERT_NODE_NAME: 'edge-2' };
  const flags = { underlay: { port: 1003 } };
  assert.is(loadConfig(null, variables, { underlay: { interface: 'x' } }).underlay.port, 1002);
  assert.is(loadConfig(file, NO_VARIABLES, {}).underlay.port, 1001);
  assert.is(loadConfig(file, variables, {}).underlay.port, 1002);
  const config = loadConfig(file, variables, flags);
  assert.is(config.underlay.port, 1003);
  assert.is(config.nodeName, 'edge-2');
  assert.is(config.underlay.interface, 'eth0', 'one setting does not hide its neighbours');
  assert.is(config.underlay.sendSockets, 2);
  assert.is(config.underlay.mtu, DEFAULTS.underlay.mtu);
});

test('a list of a stronger source takes the place of the weaker one\'s', () => {
  const file = fileOf({ ...LEAST, podNetworks: ['10.1.0.0/16', '10.2.0.0/16'] });
  const variables = { CULVERT_POD_NETWORKS: ' 10.3.0.0/16 , fd00::/48,' };
  assert.equal(loadConfig(file, variables, {}).podNetworks, ['10.3.0.0/16', 'fd00::/48']);
});

test('every setting is reachable by file, variable and flag', () => {
  const paths = settingPaths();
  assert.ok(paths.length > 20);
  for (const setting of paths) {
    const { path, example } = setting;
    const { value, text } = otherValue(setting);
    const name = path.join('.');
    assert.not.equal(value, example, name);
    const tree: Settings = structuredClone(LEAST);
    setAt(tree, path, value);
    assert.equal(valueAt(loadConfig(fileOf(tree), NO_VARIABLES, {}), path), value, name);

    const file = fileOf(LEAST);
    const variables = { [environmentName(path)]: text };
    assert.equal(valueAt(loadConfig(file, variables, {}), path), value, environmentName(path));

    const flags: Settings = {};
    setAt(flags, path, fromText(text, example));
    assert.equal(valueAt(loadConfig(file, NO_VARIABLES, flags), path), value, flagName(path));
  }
});

test('net-conf.json of the cluster stands below every source, and above the defaults', () => {
  const least = { ...LEAST, netConf: NET_CONF };
  const config = loadConfig(fileOf(least), NO_VARIABLES, {});
  assert.equal(config.podNetworks, ['10.42.0.0/16', 'fd00:42::/56']);
  assert.equal([config.underlay.port, config.underlay.mtu], [4789, 1400]);
  const own = loadConfig(fileOf({ ...least, podNetworks: ['10.1.0.0/16'] }), NO_VARIABLES, {
    underlay: { port: 8472 },
  });
  assert.equal([own.podNetworks, own.underlay.port], [['10.1.0.0/16'], 8472]);
});

test('a net-conf.json that cannot be used names file and field', () => {
  const path = join(folder, 'bad.json');
  assert.match(complaint(fileOf(LEAST), { CULVERT_NET_CONF: path }), /^read .*bad\.json: ENOENT$/);
  writeFileSync(path, '{"Network": "10.42.0.0/16", "Backend": {"Type": "wireguard"}}');
  assert.match(complaint(fileOf({ ...LEAST, netConf: path })),
    /bad\.json: Backend\.Type: wireguard is not spoken here; vxlan/);
});

test('only the port of VXLAN is the underlay\'s: tunnels of other types say theirs', () => {
  const path = join(folder, 'udp.json');
  writeFileSync(path, '{"Network": "10.42.0.0/16", "Backend": {"Type": "udp", "Port": 9000}}');
  const config = loadConfig(fileOf({ ...LEAST, netConf: path }), NO_VARIABLES, {});
  assert.equal([config.podNetworks, config.underlay.port], [['10.42.0.0/16'], 8472]);
});

test('variables and flags are named after the field', () => {
  assert.is(environmentName(['underlay', 'sendSockets']), 'CULVERT_UNDERLAY_SEND_SOCKETS');
  assert.is(flagName(['underlay', 'sendSockets']), '--underlay-send-sockets');
  assert.is(environmentName(['nodeName']), 'CULVERT_NODE_NAME');
  assert.is(flagName(['debug', 'fault', 'crashAfter']), '--debug-fault-crash-after');
  for (const name of [environmentName, flagName]) {
    const names = settingPaths().map(({ path }) => name(path));
    assert.is(new Set(names).size, names.length, 'no two settings share a name');
  }
});

test('variables of others are left alone', () => {
  const variables = { CULVERT_NO_SUCH_SETTING: 'x', PATH: '/bin', CULVERT: 'y' };
  assert.is(loadConfig(fileOf(LEAST), variables, {}).nodeName, 'edge-1');
});

test('an error in a file names file, line and field', () => {
  const complaints: [content: string, expected: RegExp][] = [
    ['nodeName: a\nunderlay:\n  port: eighty\n', /^3: underlay\.port: .*Expected number.*"eighty"/],
    ['nodeName: a\nunderlay:\n  port: 70000\n', /^3: underlay\.port: .*65535/],
    ['nodeName: a\nunderlay:\n  mtu: 100\n', /^3: underlay\.mtu: not 0 or 576 to 65535$/],
    ['podNetworks:\n  - 10.0.0.0/8\n  - 10.0.0.0\n', /^3: podNetworks\[1\]: not a prefix/],
    ['podNetworks: 10.0.0.0/8\n', /^1: podNetworks: .*Expected Array/],
    ['underlay:\n  addresses: [192.0.2.1, here]\n', /^2: underlay\.addresses\[1\]: not an IP/],
    ['nodePorts:\n  range: 9-8\n', /^2: nodePorts\.range: not a range/],
    ['memory: tiny\n', /^1: memory: .*"small" \| "standard" \| "full"/],
    ['# first\ndevice:\n  name: a-name-that-is-too-long\n', /^3: device\.name: not an interface/],
    ['device: { keep: "yes" }\n', /^1: device\.keep: .*Expected boolean/],
    ['debug:\n  fault:\n    drop: 2\n', /^3: debug\.fault\.drop: .*1/],
    ['underlay:\n', /^1: underlay: .*received null/],
  ];
  for (const [content, expected] of complaints) assert.match(fileComplaint(content), expected);
});

test('a field that does not exist is refused where it stands', () => {
  assert.is(fileComplaint('nodeName: a\n\nnodename: b\n'), '3: nodename: there is no such field');
  const nested = 'underlay:\n  interface: eth0\n  sockets:\n    count: 4\n';
  assert.is(fileComplaint(nested), '3: underlay.sockets: there is no such field');
});

test('a file that is not YAML, or not a tree of settings, is refused by line', () => {
  assert.match(fileComplaint('nodeName: a\nunderlay: [1\nmtu: 2\n'), /^3: [A-Z].* ]$/);
  assert.match(fileComplaint('nodeName: a\nnodeName: b\n'), /^2: Map keys must be unique/);
  assert.match(fileComplaint('nodeName: a\n\tunderlay: b\n'), /^2: /);
  assert.match(fileComplaint('just words\n'), /^1: Invalid type: Expected Object/);
  assert.match(fileComplaint('- a\n- b\n'), /^1: /);
  assert.match(fileComplaint('nodeName: a\n---\nnodeName: b\n'), /^\d: .*multiple documents/);
});

test('a file is JSON as well as YAML, and may be empty', () => {
  const json = JSON.stringify({ ...LEAST, icmp: { rate: 5 } }, null, 2);
  assert.is(loadConfig(fileOf(json), NO_VARIABLES, {}).icmp.rate, 5);
  assert.match(fileComplaint('{\n  "icmp": {\n    "rate": -1\n  }\n}\n'), /^3: icmp\.rate: /);
  const variables = { CULVERT_NODE_NAME: 'a', CULVERT_UNDERLAY_INTERFACE: 'eth0' };
  assert.is(loadConfig(fileOf('# nothing yet\n'), variables, {}).nodeName, 'a');
});

test('a file that cannot be read is named with the cause', () => {
  assert.is(complaint(join(folder, 'none.yaml')), `read ${join(folder, 'none.yaml')}: ENOENT`);
  assert.is(complaint(folder), `read ${folder}: EISDIR`);
});

test('an error in a variable or a flag names it as it was given', () => {
  const file = fileOf(LEAST);
  const variable = (name: string, value: string): string => complaint(file, { [name]: value });
  assert.match(variable('CULVERT_UNDERLAY_PORT', '80x'), /^CULVERT_UNDERLAY_PORT: .*"80x"/);
  assert.match(variable('CULVERT_UNDERLAY_PORT', ''), /^CULVERT_UNDERLAY_PORT: .*Expected number/);
  assert.match(variable('CULVERT_ICMP_RATE', '1.5'), /^CULVERT_ICMP_RATE: /);
  assert.match(variable('CULVERT_DEVICE_KEEP', 'yes'), /^CULVERT_DEVICE_KEEP: .*Expected boolean/);
  assert.is(variable('CULVERT_POD_NETWORKS', '10.0.0.0/8,x'),
    'CULVERT_POD_NETWORKS: not a prefix in CIDR form');
  const flag = (tree: Settings): string => complaint(file, {}, tree);
  assert.match(flag({ underlay: { sendSockets: 65 } }), /^--underlay-send-sockets: .*64/);
  assert.match(flag({ debug: { fault: { drop: 'much' } } }), /^--debug-fault-drop: .*"much"/);
  assert.match(flag({ logLevel: 'loud' }), /^--log-level: /);
});

test('what must be said and is not is named in the words of every source', () => {
  assert.is(complaint(null), 'nodeName: missing; set it in the file, as CULVERT_NODE_NAME or with '
    + '--node-name');
  assert.is(complaint(null, { CULVERT_NODE_NAME: 'a' }), 'underlay.interface: missing; set it in '
    + 'the file, as CULVERT_UNDERLAY_INTERFACE or with --underlay-interface');
  const variables = { CULVERT_NODE_NAME: 'a', CULVERT_UNDERLAY_ADDRESSES: '192.0.2.1' };
  assert.is(complaint(null, variables), 'no error');
});

test('a weaker source is checked even where a stronger one decides', () => {
  const file = fileOf({ ...LEAST, memory: 'tiny' });
  assert.match(complaint(file, {}, { memory: 'small' }), /^.*config\.yaml:\d+: memory: /);
});

test.run();
