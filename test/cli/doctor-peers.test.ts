// What doctor says of peers: by which tunnel, why, and what of the node is in the way.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { peerFindings, routeInterface, type MachineFacts } from '../../cli/doctor-peers.ts';
import type { PeerReport } from '../../engine/model.ts';

const test = suite('cli/doctor-peers');
const TRAFFIC = { rxPackets: 0, rxBytes: 0, txPackets: 0, txBytes: 0 };
const STATUS = {
  pid: 7,
  underlay: { interface: 'eth0', addresses: ['192.0.2.1'], port: 8472, mtu: 1500 },
  device: { name: 'culvert0', mtu: 1450, addresses: [], state: 'ready' as const },
};
const FINE: Record<string, string> = {
  'net/ipv4/conf/eth0/forwarding': '1', 'net/ipv4/conf/culvert0/forwarding': '1',
  'net/ipv4/conf/all/rp_filter': '0', 'net/ipv4/conf/eth0/rp_filter': '0',
  'net/ipv6/conf/all/forwarding': '1',
};
/** Routes as /proc/net/route has them: a default one, our network's, and a peer's. */
const ROUTES = [
  'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT',
  'eth1\t00000000\t010A000A\t0003\t0\t0\t0\t00000000\t0\t0\t0',
  'culvert0\t0000F40A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0',
  'eth0\t0002F40A\t020200C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0', '',
].join('\n');

function peer(change: Partial<PeerReport>): PeerReport {
  return {
    node: 'edge-2', family: 'IPv4', kind: 'vxlan', remote: '192.0.2.2', vni: 1, port: 8472,
    mac: '02:00:00:00:00:02', why: 'type vxlan', podCidrs: ['10.244.2.0/24'], mtu: 1450,
    ...TRAFFIC, ...change,
  };
}

function machine(change: Record<string, string>, hasRaw: boolean | null = true): MachineFacts {
  return {
    hasRawSockets: () => hasRaw,
    sysctl: (name) => ({ ...FINE, ...change })[name] ?? null,
    routeInterface: (prefix) => routeInterface(prefix, ROUTES),
  };
}

const CASES: [name: string, report: Partial<PeerReport>, MachineFacts, missing: RegExp[]][] = [
  ['vxlan needs nothing', {}, machine({ 'net/ipv4/conf/eth0/forwarding': '0' }, false), []],
  ['ipip with raw sockets', { kind: 'ipip' }, machine({}), []],
  ['ipip without', { kind: 'ipip' }, machine({}, false), [/no CAP_NET_RAW, .* give it to it$/]],
  ['ipip of a daemon that cannot be looked at', { kind: 'ipip' }, machine({}, null), []],
  ['direct', { kind: 'direct' }, machine({ 'net/ipv4/conf/all/rp_filter': '1' }), []],
  ['direct, not forwarded', { kind: 'direct' }, machine({ 'net/ipv4/conf/eth0/forwarding': '0' }),
    [/conf\/eth0\/forwarding is 0 sysctl -w net\/ipv4\/conf\/eth0\/forwarding=1$/]],
  ['direct, with a route elsewhere', { kind: 'direct', podCidrs: ['10.244.9.0/24'] },
    machine({ 'net/ipv4/conf/eth0/rp_filter': '1' }),
    [/10\.244\.9\.0\/24 is routed to culvert0: .* net\.ipv4\.conf\.eth0\.rp_filter=2$/]],
  ['direct, where that does not matter', { kind: 'direct', podCidrs: ['10.244.9.0/24'] },
    machine({ 'net/ipv4/conf/eth0/rp_filter': '2' }), []],
  ['direct of IPv6', { kind: 'direct', family: 'IPv6' }, machine({}), []],
  ['direct of IPv6, not forwarded', { kind: 'direct', family: 'IPv6' },
    machine({ 'net/ipv6/conf/all/forwarding': '0' }), [/ipv6\/conf\/all\/forwarding=1$/]],
  ['direct of IPv6, forwarded by interface', { kind: 'direct', family: 'IPv6' }, machine({
    'net/ipv6/conf/all/forwarding': '0', 'net/ipv6/conf/eth0/force_forwarding': '1',
    'net/ipv6/conf/culvert0/force_forwarding': '1',
  }), []],
];

for (const [name, change, facts, expected] of CASES) {
  test(name, () => {
    const [finding] = peerFindings([peer(change)], STATUS, facts);
    const told = (finding?.missing ?? []).map(({ what, fix }) => `${what} ${fix}`);
    assert.is(told.length, expected.length, told.join('\n'));
    for (const [index, pattern] of expected.entries()) assert.match(told[index] ?? '', pattern);
  });
}

test('each way says why it is this one', () => {
  const { why: _, ...silent } = peer({});
  const findings = peerFindings([peer({ kind: 'direct', why: 'DirectRouting' }), silent], STATUS,
    machine({}));
  assert.equal(findings.map(({ node, kind, why }) => [node, kind, why]),
    [['edge-2', 'direct', 'DirectRouting'], ['edge-2', 'vxlan', 'as the cluster says']]);
});

test('routes are those of the longest prefix', () => {
  assert.is(routeInterface('10.244.2.0/24', ROUTES), 'eth0');
  assert.is(routeInterface('10.244.3.0/24', ROUTES), 'culvert0');
  assert.is(routeInterface('198.51.100.0/24', ROUTES), 'eth1');
  assert.is(routeInterface('10.244.2.0/24', ''), null);
});

test.run();
