// Links: what is asked for is what the kernel then has.
//
//   [ left: eth0 10.0.0.1/24 fd00::1/64 ] === veth === [ right: r<pid> ]

import { readdirSync, readlinkSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { featureNames, getOffload, interfaceMac, setFeatures, setTxChecksum } from
  '../../ffi/ethtool.ts';
import { closeFd } from '../../ffi/file.ts';
import { Links, type Route } from '../../ffi/netlink.ts';
import { createNamespace, writeSysctl, type Namespace } from '../../ffi/netns.ts';
import { openTun } from '../../ffi/tun.ts';
import { localPort, openUdpSocket } from '../../ffi/socket.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('ffi/netlink');
const LEFT = `l${process.pid}`;
const RIGHT = `r${process.pid}`;

interface Bed {
  left: Namespace;
  right: Namespace;
  links: Links;
  far: Links;
}

async function withBed(fn: (bed: Bed) => Promise<void>): Promise<void> {
  const left = createNamespace();
  const right = createNamespace();
  const links = left.run(() => new Links());
  const far = right.run(() => new Links());
  try {
    await links.addVeth(LEFT, RIGHT, right.fd);
    await links.setLink(LEFT, { newName: 'eth0', up: true, linkLocalIpv6: false });
    await far.setLink(RIGHT, { up: true });
    await links.addAddress('eth0', '10.0.0.1/24');
    await links.addAddress('eth0', 'fd00::1/64');
    await fn({ left, right, links, far });
  } finally {
    for (const each of [links, far, left, right]) each.close();
  }
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => 'no refusal', (error: Error) => error.message);
}

testNeeding('root', test, 'a veth pair is made, renamed, changed, moved and removed', () =>
  withBed(async ({ right, links, far }) => {
    assert.equal((await far.list()).map(({ name }) => name), ['lo', RIGHT]);
    await links.setLink('eth0', { mtu: 1400, mac: '02:00:00:00:00:01', queueLength: 77 });
    const { index, ...eth0 } = await links.link('eth0');
    assert.equal(eth0, {
      name: 'eth0', kind: 'veth', mac: '02:00:00:00:00:01', mtu: 1400, queueLength: 77, up: true,
      running: true, masterIndex: 0,
    });
    assert.is(await links.linkIndex('eth0'), index);
    await links.setLink('eth0', { namespaceFd: right.fd, newName: 'moved' });
    assert.is((await far.link('moved')).mac, '02:00:00:00:00:01');
    await far.removeLink('moved');
    assert.equal((await far.list()).map(({ name }) => name), ['lo']);
  }));

testNeeding('root', test, 'addresses of both families are usable at once, no link-local ones', () =>
  withBed(async ({ left, links }) => {
    assert.equal(await links.addresses('eth0'), ['10.0.0.1/24', 'fd00::1/64']);
    for (const [family, address] of [['IPv4', '10.0.0.1'], ['IPv6', 'fd00::1']] as const) {
      const fd = left.run(() => openUdpSocket({
        family, address, port: 0, receiveBufferBytes: 1 << 16, sendBufferBytes: 1 << 16,
      }));
      assert.ok(localPort(fd) > 0);
      closeFd(fd);
    }
    await links.removeAddress('eth0', '10.0.0.1/24');
    await links.removeAddress('eth0', 'fd00::1/64');
    assert.equal(await links.addresses('eth0'), []);
  }));

testNeeding('root', test, 'routes are added, listed, replaced and removed, both families', () =>
  withBed(async ({ links }) => {
    const added: Route[] = [
      { prefix: '10.244.0.0/16', device: 'eth0', via: '10.9.9.9', onlink: true, metric: 7 },
      { prefix: '10.244.0.0/16', kind: 'blackhole', metric: 100 },
      { prefix: '10.245.0.0/16', kind: 'unreachable' },
      { prefix: '10.246.1.0/24', device: 'eth0', source: '10.0.0.1' },
      { prefix: '0.0.0.0/0', via: '10.0.0.2' },
      { prefix: 'fd01::/48', device: 'eth0', via: 'fd00::2', metric: 9 },
      { prefix: 'fd01::/48', kind: 'blackhole', metric: 4000 },
      { prefix: '::/0', device: 'eth0' },
    ];
    for (const route of added) await links.addRoute(route);
    const listed = await links.routes();
    for (const route of added) {
      const wanted: [string, unknown][] = Object.entries({ kind: 'unicast', ...route });
      const found = listed.find((each) =>
        wanted.every(([key, value]) => each[key as keyof Route] === value));
      assert.ok(found, `${JSON.stringify(route)} is not listed`);
    }
    assert.match(await refusal(links.addRoute(added[0] as Route)),
      /^route add on 10\.244\.0\.0\/16: EEXIST/);
    await links.addRoute({ ...(added[0] as Route), via: '10.9.9.8', replace: true });
    const vias = (await links.routes()).map(({ via }) => via);
    assert.ok(vias.includes('10.9.9.8') && !vias.includes('10.9.9.9'));

    added[0] = { ...(added[0] as Route), via: '10.9.9.8' };
    for (const route of added) await links.removeRoute(route);
    assert.ok((await links.routes()).every(({ protocol }) => protocol === 2));
    assert.match(await refusal(links.removeRoute({ prefix: '10.245.0.0/16' })), /ESRCH/);
  }));

testNeeding('root', test, 'tables are apart', () => withBed(async ({ links }) => {
  await links.addRoute({ prefix: '10.7.0.0/16', device: 'eth0', table: 1000, protocol: 80 });
  assert.equal(await links.routes(1000), [{
    prefix: '10.7.0.0/16', device: 'eth0', kind: 'unicast', onlink: false, metric: 0, table: 1000,
    protocol: 80,
  }]);
}));

testNeeding('vxlan', test, 'a kernel VXLAN peer is set up as flannel does it', () =>
  withBed(async ({ links }) => {
    const mac = '02:00:00:00:00:0a';
    const peerMac = '02:00:00:00:00:0b';
    const device = 'flannel.1';
    await links.addVxlan({
      name: device, vni: 1, port: 8472, local: '10.0.0.1', device: 'eth0', mtu: 1450, mac,
    });
    await links.setLink(device, { up: true, linkLocalIpv6: false });
    await links.addAddress(device, '10.244.0.0/32');
    await links.addNeighbour({ device, address: '10.244.1.0', mac: peerMac });
    await links.addFdb({ device, mac: peerMac, remote: '10.0.0.2' });
    await links.addRoute({ prefix: '10.244.1.0/24', via: '10.244.1.0', device, onlink: true });
    const vxlan = await links.link(device);
    assert.equal([vxlan.kind, vxlan.mac, vxlan.mtu], ['vxlan', mac, 1450]);

    await links.removeFdb({ device, mac: peerMac, remote: '10.0.0.2' });
    await links.removeNeighbour({ device, address: '10.244.1.0', mac: peerMac });
    assert.match(await refusal(links.removeFdb({ device, mac: peerMac, remote: '10.0.0.2' })),
      /^fdb 02:00:00:00:00:0b remove on flannel\.1: ENOENT/);
  }));

testNeeding('bridge', test, 'a bridge takes and releases a port', () =>
  withBed(async ({ links }) => {
    await links.addBridge('br0');
    await links.setLink('eth0', { master: 'br0' });
    assert.is((await links.link('eth0')).masterIndex, await links.linkIndex('br0'));
    await links.setLink('eth0', { master: null });
    assert.is((await links.link('eth0')).masterIndex, 0);
  }));

testNeeding('tun', test, 'a TUN has no link-local address when told so', () =>
  withBed(async ({ left, links }) => {
    const { fd } = left.run(() => openTun({ name: 'pod0', kind: 'tun' }));
    await links.setLink('pod0', { up: true, linkLocalIpv6: false, mtu: 1450 });
    assert.equal(await links.addresses('pod0'), []);
    left.run(() => writeSysctl('net/ipv6/conf/pod0/accept_ra', 0));
    closeFd(fd);
  }));

testNeeding('root', test, 'transmit checksums are switched off, and TSO with them', () =>
  withBed(async ({ left, links }) => {
    const state = (): boolean[] => left.run(() =>
      (['tx', 'tso'] as const).map((offload) => getOffload('eth0', offload)));
    assert.equal(state(), [true, true]);
    left.run(() => setTxChecksum('eth0', false));
    assert.equal(state(), [false, false]);
    assert.is(left.run(() => interfaceMac('eth0')), (await links.link('eth0')).mac);
    assert.throws(() => left.run(() => setTxChecksum('none0', false)),
      'ioctl(SIOCETHTOOL, ETHTOOL_S tx) on none0: ENODEV; there is no such interface');
  }));

testNeeding('root', test, 'features are switched by name', () =>
  withBed(async ({ left }) => {
    const known = left.run(() => featureNames('eth0'));
    assert.ok(known.includes('tx-tcp-segmentation'));
    const named = known.filter((feature) => feature !== '');
    assert.is(new Set(named).size, named.length);
    for (const on of [false, true]) {
      left.run(() => setFeatures('eth0', (feature) => feature.startsWith('tx-tcp'), on));
      assert.is(left.run(() => getOffload('eth0', 'tso')), on);
      assert.is(left.run(() => getOffload('eth0', 'tx')), true);
    }
  }));

testNeeding('root', test, 'refusals name operation, object and cause', () =>
  withBed(async ({ links }) => {
    assert.is(await refusal(links.linkIndex('none0')),
      'link get on none0: ENODEV; there is no such interface in this network namespace');
    assert.match(await refusal(links.addAddress('eth0', 'fd00::1/64')),
      /^address add fd00::1\/64 on eth0: EEXIST; it exists already$/);
    assert.match(await refusal(links.addRoute({ prefix: '10.0.0.0/33' })), /is not a prefix/);
    assert.match(await refusal(links.addRoute({ prefix: '10.8.0.0/16', via: '10.99.0.1' })),
      /^route add on 10\.8\.0\.0\/16: ENETUNREACH/);
  }));

testNeeding('root', test, 'requests at the same time get their own whole answers', () =>
  withBed(async ({ links }) => {
    for (let i = 0; i < 40; i++) await links.addVeth(`a${i}`, `b${i}`);
    const lists = await Promise.all(Array.from({ length: 20 }, async (_, i) => {
      const [list, link, addresses] = await Promise.all([
        links.list(), links.link(`a${i}`), links.addresses('eth0'),
      ]);
      assert.is(link.name, `a${i}`);
      assert.is(addresses.length, 2);
      return list.length;
    }));
    assert.equal(lists, new Array(20).fill(2 + 80));
  }));

testNeeding('root', test, 'no descriptor stays open after close()', async () => {
  const sockets = (): number => readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:');
    } catch {
      return false;
    }
  }).length;
  const before = sockets();
  for (let i = 0; i < 20; i++) await withBed(async () => {});
  assert.is(sockets(), before);
});

test.run();
