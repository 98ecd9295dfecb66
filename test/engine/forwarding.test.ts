// The cluster as tables: snapshots and deltas, peers and prefixes that change or move, endpoints.
// What the tables say is asked of the core, with packets. Limits are forwarding-limits.test.ts's.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { readTraffic } from '../../engine/counters.ts';
import { LOCAL, POD, POD_6, apply, change, describe, makeNode, makeTunnel, receive, send, setUp,
  usage } from '../support/cluster.ts';
import { placePacket, processOne, readVerdict } from '../support/core.ts';
import { concat, ethernet, fromHex, ipv4, ipv6, toHex } from '../support/packets.ts';

test('a snapshot is in force as a whole', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [makeNode(2), LOCAL, makeNode(1)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD, POD_6], null);
  assert.equal(forwarding.problems(), []);
  assert.is(forwarding.local?.name, 'node-0');
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:8472 01 1');
  assert.is(send(core, device, '192.0.2.2'), '192.0.2.2:8472 02 1');
  assert.is(send(core, device, 'fd00:1:0:2::9'), '2001:db8::2:8472 02 1');
  assert.is(send(core, device, '10.1.3.9'), 'noRoute');
  assert.is(send(core, device, '198.51.100.1'), `device ${layout.DEVICE_NODE}`);
  assert.is(send(core, device, '10.1.0.0'), `device ${layout.DEVICE_NODE}`);
  assert.is(receive(core, '192.0.2.1', '10.1.1.9'), `device ${device}`);
  assert.is(receive(core, '192.0.2.1', '10.1.2.9'), 'foreignSource');
  assert.is(receive(core, '192.0.2.3', '10.1.1.9'), 'unknownPeer');
});

test('a later snapshot removes what it does not name', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  apply(forwarding, [LOCAL, makeNode(2)]);
  assert.is(send(core, device, '10.1.1.9'), 'noRoute');
  assert.is(send(core, device, '10.1.2.9'), '192.0.2.2:8472 02 1');
  assert.is(receive(core, '192.0.2.1', '10.1.1.9'), 'unknownPeer');
  assert.equal([...forwarding.peers.keys()], ['node-2/IPv4', 'node-2/IPv6']);
});

test('routes are listed and looked up as the core has them', () => {
  const { forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  forwarding.attachEndpoint('a/b', [POD], null);
  const route = (prefix: string) => forwarding.routes().find((found) => found.prefix === prefix);
  assert.equal(route('10.1.1.0/24'), { prefix: '10.1.1.0/24', kind: 'peer', via: 'node-1' });
  assert.equal(route('10.1.0.5/32'), { prefix: '10.1.0.5/32', kind: 'endpoint', via: 'a/b' });
  assert.equal(forwarding.lookUp('10.1.1.77'), route('10.1.1.0/24'));
  assert.equal(forwarding.lookUp(POD), route('10.1.0.5/32'));
  assert.is(forwarding.lookUp('10.1.0.77')?.kind, 'unreachable');
  assert.is(forwarding.lookUp('10.1.0.0')?.kind, 'node');
  assert.is(forwarding.lookUp('8.8.8.8')?.prefix, '0.0.0.0/0');
  assert.is(forwarding.lookUp('fd00:1:0:1::7')?.via, 'node-1');
});

test('a peer changes address, MAC, VNI and port', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  const [tunnel, other] = makeNode(1).tunnels;
  if (tunnel === undefined || other === undefined) throw new Error('two tunnels');
  const before = forwarding.peers.get('node-1/IPv4')?.nextHop;
  const mac = '0e:00:00:00:04:77';
  const changed = { ...tunnel, remote: '203.0.113.1', mac, vni: 7, port: 4789 };
  change(forwarding, [makeNode(1, { tunnels: [changed, other] })]);
  assert.is(send(core, device, '10.1.1.9'), '203.0.113.1:4789 77 7');
  assert.is(receive(core, '192.0.2.1', '10.1.1.9'), 'unknownPeer');
  assert.is(receive(core, '203.0.113.1', '10.1.1.9'), 'wrongVni');
  assert.is(receive(core, '203.0.113.1', '10.1.1.9', 7), `device ${device}`);
  assert.is(forwarding.peers.get('node-1/IPv4')?.nextHop, before, 'its next hop stays');
});

test('our own VTEP\'s MAC changes for every peer', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  const tunnels = LOCAL.tunnels.map((tunnel) => ({ ...tunnel, mac: '0e:00:00:00:04:fe' }));
  change(forwarding, [{ ...LOCAL, tunnels }]);
  const packet = ipv4({ source: POD, destination: '10.1.1.9', protocol: 17 }, new Uint8Array(8));
  const { bytes } = processOne(core, packet, device);
  assert.is(toHex(bytes.subarray(14, 20)), '0e 00 00 00 04 fe');
  assert.is(receive(core, '192.0.2.1', '10.1.1.9'), 'wrongMac');
});

test('a tunnel comes and goes', () => {
  const { core, forwarding } = setUp();
  const only4 = makeNode(1, { tunnels: [makeTunnel('IPv4', 1)] });
  apply(forwarding, [LOCAL, only4]);
  const { device } = forwarding.attachEndpoint('a/b', [POD, POD_6], null);
  assert.is(send(core, device, 'fd00:1:0:1::9'), 'noRoute');
  change(forwarding, [makeNode(1)]);
  assert.is(send(core, device, 'fd00:1:0:1::9'), '2001:db8::1:8472 01 1');
  change(forwarding, [only4]);
  assert.is(send(core, device, 'fd00:1:0:1::9'), 'noRoute');
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:8472 01 1');
  assert.equal([...forwarding.peers.keys()], ['node-1/IPv4']);
});

test('both families through one VTEP', () => {
  const { core, forwarding } = setUp();
  const tunnel = makeTunnel('IPv4', 1);
  apply(forwarding, [LOCAL, makeNode(1, { tunnels: [tunnel, { ...tunnel, family: 'IPv6' }] })]);
  const { device } = forwarding.attachEndpoint('a/b', [POD, POD_6], null);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:8472 01 1');
  assert.is(send(core, device, 'fd00:1:0:1::9'), '192.0.2.1:8472 01 1');
  assert.is(receive(core, '192.0.2.1', '10.1.1.9'), `device ${device}`);
  const inner = ipv6({ source: 'fd00:1:0:1::9', destination: POD_6, nextHeader: 59 },
    new Uint8Array(0));
  const datagram = concat(fromHex('08 00 00 00 00 00 01 00'), ethernet(
    { destination: '0e:00:00:00:04:00', source: '0e:00:00:00:04:01', type: 0x86dd }, inner));
  const verdict = processOne(core, datagram, layout.DEVICE_UNDERLAY_IPV4,
    { address: '192.0.2.1', port: 9 });
  assert.is(describe(core, verdict), `device ${device}`);
});

for (const order of [[1, 2], [2, 1]]) {
  test(`a pod network moves between nodes in one delta, ${order.join(' before ')}`, () => {
    const { core, forwarding } = setUp();
    apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
    const { device } = forwarding.attachEndpoint('a/b', [POD], null);
    const moved = new Map([
      [1, makeNode(1, { podCidrs: ['fd00:1:0:1::/64'] })],
      [2, makeNode(2, { podCidrs: ['10.1.2.0/24', '10.1.1.0/24'] })],
    ]);
    change(forwarding, order.map((index) => moved.get(index) ?? makeNode(index)));
    assert.is(send(core, device, '10.1.1.9'), '192.0.2.2:8472 02 1');
    assert.is(receive(core, '192.0.2.2', '10.1.1.9'), `device ${device}`);
    assert.is(receive(core, '192.0.2.1', '10.1.1.9'), 'foreignSource');
    assert.equal(forwarding.problems(), [], 'nobody claims it twice in the end');
  });

  test(`two nodes swap their addresses in one delta, ${order.join(' before ')}`, () => {
    const { core, forwarding } = setUp();
    apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
    const { device } = forwarding.attachEndpoint('a/b', [POD], null);
    change(forwarding, order.map((index) => makeNode(index, {
      tunnels: [{ ...makeTunnel('IPv4', index), remote: `192.0.2.${3 - index}` }],
    })));
    assert.is(send(core, device, '10.1.1.9'), '192.0.2.2:8472 01 1');
    assert.is(receive(core, '192.0.2.2', '10.1.1.9'), `device ${device}`);
    assert.is(receive(core, '192.0.2.1', '10.1.2.9'), `device ${device}`);
    assert.is(receive(core, '192.0.2.1', '10.1.1.9'), 'foreignSource');
    assert.equal(forwarding.problems(), []);
  });
}

test('a node is replaced by one of another name with its pod network and address', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  change(forwarding, [makeNode(1, { name: 'node-new' })], ['node-1']);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:8472 01 1');
  assert.is(receive(core, '192.0.2.1', '10.1.1.9'), `device ${device}`);
  assert.is(forwarding.lookUp('10.1.1.9')?.via, 'node-new');
  assert.equal(forwarding.problems(), []);
});

test('of two claims the first is kept, and the heir takes over', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  change(forwarding, [makeNode(2, { podCidrs: ['10.1.2.0/24', '10.1.1.0/24'] })]);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:8472 01 1');
  assert.equal(forwarding.problems(), ['10.1.1.0/24 of node node-2 is kept by node node-1']);
  const [tunnel, other] = makeNode(1).tunnels;
  if (tunnel === undefined || other === undefined) throw new Error('two tunnels');
  change(forwarding, [makeNode(1, { tunnels: [{ ...tunnel, port: 4789 }, other] })]);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.1:4789 01 1', 'a change keeps the place');
  change(forwarding, [], ['node-1']);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.2:8472 02 1');
  assert.equal(forwarding.problems(), []);
  change(forwarding, [makeNode(1)]);
  assert.is(send(core, device, '10.1.1.9'), '192.0.2.2:8472 02 1', 'who comes back waits');
  assert.equal(forwarding.problems(), ['10.1.1.0/24 of node node-1 is kept by node node-2']);
});

test('endpoints come and go', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  const before = usage(core, forwarding);
  const first = forwarding.attachEndpoint('a/first', [POD, POD_6], null);
  const second = forwarding.attachEndpoint('a/second', ['10.1.0.6'], '0a:00:00:00:00:06');
  assert.is(send(core, first.device, '10.1.0.6'), `device ${second.device}`);
  const frame = ethernet(
    { destination: '02:63:75:6c:76:74', source: '0a:00:00:00:00:06', type: 0x0800 },
    ipv4({ source: '10.1.0.6', destination: POD, protocol: 17 }, new Uint8Array(8)));
  assert.is(describe(core, processOne(core, frame, second.device)), `device ${first.device}`);
  assert.is(readTraffic(core, second.nextHop).rxPackets, 1);
  forwarding.detachEndpoint(second);
  assert.is(send(core, first.device, '10.1.0.6'), 'noRoute');
  assert.is(describe(core, processOne(core, frame, second.device)), 'deviceUnknown');
  const third = forwarding.attachEndpoint('a/third', ['10.1.0.6'], null);
  assert.is(send(core, first.device, '10.1.0.6'), `device ${third.device}`);
  assert.equal(readTraffic(core, third.nextHop),
    { rxPackets: 0, rxBytes: 0, txPackets: 1, txBytes: 28 }, 'statistics start anew');
  forwarding.detachEndpoint(first);
  forwarding.detachEndpoint(third);
  assert.equal(usage(core, forwarding), before);
});

test('an address that is taken is refused by the name of its owner', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1)]);
  forwarding.attachEndpoint('a/first', [POD], null);
  const before = usage(core, forwarding);
  const attach = (addresses: string[]) => (): unknown =>
    forwarding.attachEndpoint('a/second', addresses, null);
  assert.throws(attach(['10.1.0.7', POD]), /attach a\/second: 10\.1\.0\.5 belongs to a\/first/);
  assert.throws(attach(['10.1.0.0']), /10\.1\.0\.0 belongs to node node-0/);
  assert.throws(attach(['192.0.2.1']), /192\.0\.2\.1 belongs to node node-1/);
  assert.equal(usage(core, forwarding), before);
});

test('an index is not used again while a worker may be reading it', () => {
  const { core, forwarding } = setUp();
  const turn = (layout.WORKERS_START + layout.WORKER_TURN) / 4;
  const words = new Int32Array(core.memory.buffer);
  const first = forwarding.attachEndpoint('a/first', ['10.1.0.1'], null);
  Atomics.add(words, turn, 1);
  forwarding.detachEndpoint(first);
  const second = forwarding.attachEndpoint('a/second', ['10.1.0.2'], null);
  assert.is.not(second.device, first.device);
  assert.is.not(second.nextHop, first.nextHop);
  Atomics.add(words, turn, 1);
  const third = forwarding.attachEndpoint('a/third', ['10.1.0.3'], null);
  assert.is(third.device, first.device);
  assert.is(third.nextHop, first.nextHop);
});

test('what was decided before a change is sent where it was decided for', () => {
  const { core, forwarding } = setUp();
  apply(forwarding, [LOCAL, makeNode(1), makeNode(2)]);
  const { device } = forwarding.attachEndpoint('a/b', [POD], null);
  const packet = ipv4({ source: POD, destination: '10.1.1.9', protocol: 17 }, new Uint8Array(8));
  placePacket(core, 0, packet, device);
  core.exports.processBatch(0, 1, 1);
  for (const port of [4789, 4790, 4791]) {
    for (const index of [1, 2]) {
      const tunnels = [{ ...makeTunnel('IPv4', index), remote: `203.0.113.${index}`, port }];
      change(forwarding, [makeNode(index, { tunnels })]);
    }
  }
  assert.is(describe(core, readVerdict(core, 0)), '192.0.2.1:8472 01 1');
});

test('a tunnel that says no port has the cluster\'s', () => {
  const { port: _, ...tunnel } = makeTunnel('IPv4', 1);
  const [flannel, other] = [setUp(), setUp({}, { tunnelPort: 4789 })].map((bed) => {
    apply(bed.forwarding, [LOCAL, makeNode(1, { tunnels: [tunnel] })]);
    const { device } = bed.forwarding.attachEndpoint('a/b', [POD], null);
    return send(bed.core, device, '10.1.1.9');
  });
  assert.equal([flannel, other], ['192.0.2.1:8472 01 1', '192.0.2.1:4789 01 1']);
});

test.run();
