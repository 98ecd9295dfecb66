// TUN devices: names, kinds, probes, errors. Each test has a namespace of its own:
//
//   [ namespace: lo, the TUN under test ]

import { constants } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { closeFd, openFile } from '../../ffi/file.ts';
import { interfaceMac } from '../../ffi/interface.ts';
import { Links } from '../../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../../ffi/netns.ts';
import {
  IFF_NO_PI, IFF_TAP, IFF_TUN, openTun, probeOffloads, setPersist, setVnetHeaderSize, tunFeatures,
} from '../../ffi/tun.ts';
import { testNeeding } from '../support/needs.ts';

const test = suite('ffi/tun');
const NAME = `cv${process.pid}`;
const DELETE_LIMIT_MS = 5000;
let namespace: Namespace;
let links: Links;

function setUp(): void {
  namespace = createNamespace();
  links = namespace.run(() => new Links());
}

function tearDown(): void {
  links.close();
  namespace.close();
}

async function names(): Promise<string[]> {
  return (await links.list()).map(({ name }) => name);
}

function inNamespace(name: string, fn: () => Promise<void> | void): void {
  testNeeding('tun', test, name, async () => {
    setUp();
    try {
      await fn();
    } finally {
      tearDown();
    }
  });
}

inNamespace('a device lives as long as its descriptor', async () => {
  const { fd, name } = namespace.run(() => openTun({ name: NAME, kind: 'tun' }));
  assert.is(name, NAME);
  assert.is((await links.link(name)).kind, 'tun');
  closeFd(fd);
  assert.equal(await names(), ['lo']);
});

inNamespace('the kernel numbers a pattern, and a TAP has a hardware address', () => {
  const { fd, name } = namespace.run(() => openTun({ name: 'pod%d', kind: 'tap' }));
  assert.is(name, 'pod0');
  assert.match(namespace.run(() => interfaceMac(name)), /^([0-9a-f]{2}:){5}[0-9a-f]{2}$/);
  closeFd(fd);
});

inNamespace('a persistent device outlives its descriptor and is attached again', async () => {
  const options = { name: NAME, kind: 'tun', persist: true, vnetHeader: true } as const;
  closeFd(namespace.run(() => openTun(options)).fd);
  assert.equal(await names(), ['lo', NAME]);
  const { fd } = namespace.run(() => openTun(options));
  setPersist(fd, false);
  closeFd(fd);
  assert.equal(await names(), ['lo']);
});

inNamespace('a device in use is refused by name, unless it has many queues', () => {
  const { fd } = namespace.run(() => openTun({ name: NAME, kind: 'tun' }));
  assert.throws(() => namespace.run(() => openTun({ name: NAME, kind: 'tun' })),
    `ioctl(TUNSETIFF) on ${NAME}: EBUSY; another descriptor holds the device`);
  closeFd(fd);
  const queue = { name: NAME, kind: 'tun', multiQueue: true } as const;
  const fds = [0, 1].map(() => namespace.run(() => openTun(queue)).fd);
  for (const each of fds) closeFd(each);
  assert.throws(() => openTun({ name: 'a-name-of-16-byt', kind: 'tun' }), /longer than 15 bytes/);
});

inNamespace('probes answer without leaving a device behind', async () => {
  const features = tunFeatures();
  assert.is(features & (IFF_TUN | IFF_TAP | IFF_NO_PI), IFF_TUN | IFF_TAP | IFF_NO_PI);
  const offloads = namespace.run(probeOffloads);
  for (const value of Object.values(offloads)) assert.type(value, 'boolean');
  if (offloads.tso4) assert.ok(offloads.vnetHeader && offloads.checksum);
  // The kernel deletes the device while we go on.
  const deadline = performance.now() + DELETE_LIMIT_MS;
  while ((await names()).length > 1 && performance.now() < deadline);
  assert.equal(await names(), ['lo']);
});

inNamespace('header sizes the kernel cannot use are refused with false', () => {
  const options = { name: NAME, kind: 'tun', vnetHeader: true } as const;
  const { fd } = namespace.run(() => openTun(options));
  assert.ok(setVnetHeaderSize(fd, 10));
  assert.not(setVnetHeaderSize(fd, 4));
  closeFd(fd);
});

testNeeding('tun', test, 'an ioctl on a descriptor that is no TUN names itself', () => {
  const fd = openFile('/dev/null', constants.O_RDWR);
  assert.throws(() => setPersist(fd, true), /^ioctl\(TUNSETPERSIST\) on descriptor \d+: ENOTTY$/);
  closeFd(fd);
});

test.run();
