// Probes of paths, in steps: what is learned, what is refused, how long it is held. The router in
// the middle is real; time is what the test says.
//
//   home              hub                     router             edge
//   [ eth0 ]----[ port0  narrow ]--------[ narrow  port1 ]----[ eth0 ]
//   192.0.2.10                 1280 .. 1500               192.0.2.11
//   2001:db8::10                                          2001:db8::11
//
// Home and edge are those of test/golden/README.md.

import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Bed, type LabNode } from '../../cli/demo/bed.ts';
import type { Family } from '../../engine/address.ts';
import type { Peer } from '../../engine/forwarding.ts';
import { closeFd } from '../../ffi/file.ts';
import { sendTo } from '../../ffi/raw-socket.ts';
import { openUdpSocket } from '../../ffi/socket.ts';
import { PathMtus } from '../../host/path-mtu.ts';
import { DIRECTORY_PEERS, PEER_MTU, PEER_STRIDE } from '../../wasm/abi/layout.ts';
import { processOne } from '../support/core.ts';
import { deviceIndex, makeHome } from '../support/home.ts';
import { testNeeding } from '../support/needs.ts';
import {
  PROTOCOL, concat, icmp, icmpv6, ipv4, ipv6, parseIpv4, read16, udp, word16,
} from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { Capture, sendPackets } from './support/capture.ts';
import { FAMILIES } from './support/lab.ts';
import { NarrowLink } from './support/narrow.ts';

const test = suite('netns/path-probes');
const HOME = { ipv4: '192.0.2.10', ipv6: '2001:db8::10' };
const EDGE = { ipv4: '192.0.2.11', ipv6: '2001:db8::11' };
const LINK_MTU = 1500;
const OVERHEAD = { IPv4: 50, IPv6: 70 };
const MINUTE_MS = 60_000;
const AGE_MS = 10 * MINUTE_MS;
/** Real time in which errors are back. */
const ANSWER_MS = 150;
const ETHERNET_SIZE = 14;
const IP_SIZE = { IPv4: 20, IPv6: 40 };
const UDP_SIZE = 8;
const DISCARD = 9;

/** Home's probes of the paths to edge, and the clock that they go by. */
class Stage {
  readonly scene: Scene = makeHome();
  readonly paths: PathMtus;
  readonly #home: LabNode;
  probes = 0;
  nowMs = 0;

  constructor(home: LabNode) {
    this.#home = home;
    const debug = (fields: object): void => {
      this.probes += (fields as { probes: number }).probes;
    };
    this.paths = new PathMtus({
      core: this.scene.core, forwarding: this.scene.forwarding,
      underlay: { addresses: { IPv4: HOME.ipv4, IPv6: HOME.ipv6 }, mtu: LINK_MTU },
      log: { debug, info: () => {}, warn: () => {}, error: () => {} },
    });
  }

  peer(family: Family): Peer {
    const peer = this.scene.forwarding.peers.get(`edge/${family}`);
    if (peer === undefined) throw new Error(`no tunnel to edge over ${family}`);
    return peer;
  }

  /** What packets to edge are held to, as the tables have it. */
  held(family: Family): number {
    const { core } = this.scene;
    const { record, mtu } = this.peer(family);
    const at = core.directory(DIRECTORY_PEERS) + (record * PEER_STRIDE) + PEER_MTU;
    assert.is(core.view.getUint32(at, true), mtu);
    return mtu;
  }

  /** A pod sends something to edge, over each family. */
  send(): void {
    const fields = { sourcePort: 1, destinationPort: 2 };
    const ends = { source: '10.244.0.5', destination: '10.244.1.7' };
    const ends6 = { source: 'fd00:10:244::5', destination: 'fd00:10:244:1::7' };
    const { core } = this.scene;
    const pod = deviceIndex(this.scene, 'pod-a');
    processOne(core, ipv4({ ...ends, protocol: PROTOCOL.udp },
      udp({ ...ends, ...fields }, new Uint8Array(9))), pod);
    processOne(core, ipv6({ ...ends6, nextHeader: PROTOCOL.udp },
      udp({ ...ends6, ...fields }, new Uint8Array(9))), pod);
  }

  /** Lets time pass, looks, and waits for what routers say. */
  async look(passedMs = 1000): Promise<void> {
    this.nowMs += passedMs;
    this.#home.host.namespace.run(() => this.paths.look(this.nowMs));
    await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
  }

  /** The same until there is nothing to ask. */
  async settle(passedMs = 1000): Promise<void> {
    await this.look(passedMs);
    for (let before = -1; before !== this.probes;) {
      before = this.probes;
      await this.look();
    }
  }
}

interface Place {
  bed: Bed;
  home: LabNode;
  narrow: NarrowLink;
}

let made: Place | null = null;

async function place(mtu: number): Promise<Place> {
  if (made === null) {
    const bed = await Bed.create();
    const home = await bed.addNode('home', HOME);
    const narrow = await NarrowLink.create(bed, await bed.addNode('edge', EDGE), mtu);
    made = { bed, home, narrow };
  }
  await made.narrow.setMtu(mtu);
  return made;
}

test.after(() => made?.bed.close());

testNeeding('root', test, 'paths in use are probed, until they are known', async () => {
  const stage = new Stage((await place(1280)).home);
  await stage.settle();
  assert.is(stage.probes, 0);
  for (const family of FAMILIES) assert.is(stage.held(family), LINK_MTU - OVERHEAD[family]);
  stage.send();
  await stage.settle();
  for (const family of FAMILIES) assert.is(stage.held(family), 1280 - OVERHEAD[family]);
  assert.equal(stage.paths.counts, { taken: 2, refused: 0, widened: 0 });
  assert.is(stage.probes, 4, 'each with what the link takes, then with what the path does');
  await stage.settle(MINUTE_MS);
  assert.is(stage.probes, 4, 'nothing was sent');
  stage.send();
  await stage.settle(MINUTE_MS);
  assert.is(stage.probes, 6);
  stage.paths.close();
});

testNeeding('root', test, 'less is learned within a minute, more after ten', async () => {
  const { home, narrow } = await place(1400);
  const stage = new Stage(home);
  const pass = async (ms: number): Promise<number[]> => {
    stage.send();
    await stage.settle(ms);
    return FAMILIES.map((family) => stage.held(family) + OVERHEAD[family]);
  };
  assert.equal(await pass(0), [1400, 1400]);
  await narrow.setMtu(1300);
  assert.equal(await pass(MINUTE_MS), [1300, 1300]);
  await narrow.setMtu(1450);
  assert.equal(await pass(MINUTE_MS), [1300, 1300]);
  assert.equal(await pass(AGE_MS), [1450, 1450]);
  await narrow.setMtu(LINK_MTU);
  assert.equal(await pass(MINUTE_MS), [1450, 1450]);
  assert.equal(await pass(AGE_MS), [LINK_MTU, LINK_MTU]);
  assert.equal(stage.paths.counts, { taken: 6, refused: 0, widened: 2 });
  stage.paths.close();
});

/** The probe of a family that home sends now, from its IP header on. */
async function captureProbe(stage: Stage, bed: Bed, family: Family): Promise<Uint8Array> {
  const capture = new Capture(bed.hub, 'port0');
  const size = IP_SIZE[family];
  try {
    await stage.look();
    const [frame] = await capture.take(1, (bytes) => {
      const version = family === 'IPv4' ? 4 : 6;
      const packet = bytes.subarray(ETHERNET_SIZE);
      return (packet[0] ?? 0) >> 4 === version && packet.length > LINK_MTU - 1
        && read16(packet, size + 2) === DISCARD;
    });
    return (frame ?? new Uint8Array(0)).slice(ETHERNET_SIZE);
  } finally {
    capture.close();
  }
}

/** An error about a packet, as a router makes it. */
function tooBig(family: Family, quote: Uint8Array, mtu: number): Uint8Array {
  return family === 'IPv4'
    ? ipv4({ source: '203.0.113.9', destination: HOME.ipv4, protocol: PROTOCOL.icmp },
      icmp(3, 4, mtu, quote))
    : ipv6({ source: '2001:db8:ffff::9', destination: HOME.ipv6, nextHeader: PROTOCOL.icmpv6 },
      icmpv6({ source: '2001:db8:ffff::9', destination: HOME.ipv6, type: 2, rest: mtu }, quote));
}

/** The quote with 16 bits of it changed. */
function changed(quote: Uint8Array, at: number, value: number): Uint8Array {
  return concat(quote.subarray(0, at), word16(value), quote.subarray(at + 2));
}

for (const family of FAMILIES) {
  testNeeding('root', test, `${family}: errors that somebody made up are refused`, async () => {
    const { bed, home, narrow } = await place(LINK_MTU);
    const stage = new Stage(home);
    const size = IP_SIZE[family];
    const cases: [string, number, (quote: Uint8Array) => Uint8Array, boolean][] = [
      ['of another port', 1300, (quote) => changed(quote, size, read16(quote, size) ^ 1), false],
      ['of another peer', 1300, (quote) => changed(quote, size - 2, 99), false],
      ['with other bytes', 1300, (quote) => changed(quote, size + UDP_SIZE + 4, 0), false],
      ['of what the probe was', LINK_MTU, (quote) => quote, false],
      ['of less than is', family === 'IPv4' ? 0 : 1279, (quote) => quote, false],
      ['that is right', 1300, (quote) => quote, true],
    ];
    for (const [what, mtu, change, isTaken] of cases) {
      stage.send();
      stage.nowMs += MINUTE_MS;
      const quote = (await captureProbe(stage, bed, family)).subarray(0, size + UDP_SIZE + 64);
      sendPackets(narrow.router, family === 'IPv4' ? HOME.ipv4 : HOME.ipv6,
        [tooBig(family, change(quote), mtu)]);
      await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
      await stage.look();
      const expected = isTaken ? mtu : LINK_MTU;
      assert.is(stage.held(family) + OVERHEAD[family], expected, what);
      assert.is(stage.paths.counts.taken, isTaken ? 1 : 0, what);
    }
    assert.ok(stage.paths.counts.refused > 0);
    stage.paths.close();
  });
}

testNeeding('root', test, 'of a router that quotes no payload the port is enough', async () => {
  const { bed, home, narrow } = await place(LINK_MTU);
  const stage = new Stage(home);
  stage.send();
  const probe = await captureProbe(stage, bed, 'IPv4');
  sendPackets(narrow.router, HOME.ipv4, [tooBig('IPv4', probe.subarray(0, 28), 1300)]);
  await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
  await stage.look();
  assert.is(stage.held('IPv4'), 1300 - OVERHEAD.IPv4);
  stage.paths.close();
});

testNeeding('root', test, 'what the kernel is told by anybody changes no data', async () => {
  const { bed, home, narrow } = await place(LINK_MTU);
  const reply = ipv4({ source: HOME.ipv4, destination: EDGE.ipv4, protocol: PROTOCOL.icmp },
    icmp(0, 0, 0, new Uint8Array(0)));
  sendPackets(narrow.router, HOME.ipv4, [tooBig('IPv4', reply, 600)]);
  await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
  const capture = new Capture(bed.hub, 'port0');
  const fd = home.host.namespace.run(() => openUdpSocket({
    family: 'IPv4', address: HOME.ipv4, port: 0, receiveBufferBytes: 65536, sendBufferBytes: 65536,
  }));
  try {
    sendTo(fd, new Uint8Array(1400), EDGE.ipv4, DISCARD);
    const [frame = new Uint8Array(0)] = await capture.take(1, (bytes) =>
      (bytes[ETHERNET_SIZE] ?? 0) >> 4 === 4 && bytes[ETHERNET_SIZE + 9] === PROTOCOL.udp);
    const { totalLength, dontFragment } = parseIpv4(frame.subarray(ETHERNET_SIZE));
    assert.equal([totalLength, dontFragment], [1428, false]);
  } finally {
    closeFd(fd);
    capture.close();
  }
});

testNeeding('root', test, 'a path of IPv4 is held to 576 bytes at least', async () => {
  const stage = new Stage((await place(300)).home);
  stage.send();
  await stage.settle();
  assert.is(stage.held('IPv4'), 576 - OVERHEAD.IPv4);
  stage.paths.close();
});

test.run();
