// Golden super-packets a human can read: each section of super-packets.md goes through the built
// core, at the tier that it names. README.md draws the node they speak of.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import * as layout from '../../wasm/abi/layout.ts';
import { readDrops, type Direction } from '../../engine/counters.ts';
import { placePacket } from '../support/core.ts';
import { deviceIndex, deviceName, makeHome } from '../support/home.ts';
import { fromHex, toHex } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { readSends, type Send } from '../support/sends.ts';
import { ROOT } from '../support/source.ts';

const VNET_SIZE = 10;
const TAP_MAC = '0e:00:00:00:0a:04';
const SENDER_PORTS = [40_000];
const TIERS: Record<string, { coalesce: number }> = {
  T1: { coalesce: layout.COALESCE_TCP },
  T2: { coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP },
  T3: { coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP },
};

/** One block of hexadecimal and the line over it. */
interface Block {
  line: string;
  bytes: Uint8Array;
}

interface Golden {
  name: string;
  tier: string;
  blocks: Block[];
  /** As written after `Dropped: `, or null. */
  dropped: string | null;
}

function readSections(): Golden[] {
  const text = readFileSync(join(ROOT, 'test/golden/super-packets.md'), 'utf8');
  const [, ...sections] = text.split(/^## /m);
  return sections.map((section) => ({
    name: section.split('\n')[0] ?? '',
    tier: /^Tier: `(T\d)`$/m.exec(section)?.[1] ?? '',
    blocks: [...section.matchAll(/^((?:Read|Sent) [^\n]+):\n\n```\n(.*?)^```$/gms)]
      .map(([, line = '', block = '']) => ({ line, bytes: fromHex(block) })),
    dropped: /^Dropped: (.+)$/m.exec(section)?.[1] ?? null,
  }));
}

function makeScene(tier: string): Scene {
  const kernel = TIERS[tier];
  if (kernel === undefined) throw new Error(`there is no tier ${tier}`);
  const scene = makeHome({ offloads: { vnetSize: VNET_SIZE, segmentLimit: 64, ...kernel } });
  const { devices } = scene.forwarding;
  devices.setSenders('IPv4', '192.0.2.10', SENDER_PORTS);
  if (tier === 'T3') devices.setTunnelTap('IPv4', TAP_MAC);
  return scene;
}

/** Puts what was read into a slot: behind its vnet header, or joined by the kernel. */
function place(scene: Scene, slot: number, { line, bytes }: Block): void {
  const [, device = '', source, size = '0'] =
    /^Read from `([^`]+)`(?:, from `([^`]+)`)?(?:, in sizes of (\d+))?$/.exec(line) ?? [];
  const input = deviceIndex(scene, device);
  const { core } = scene;
  if (source === undefined) {
    placePacket(core, slot, bytes.subarray(VNET_SIZE), input);
    core.bytes.set(bytes.subarray(0, VNET_SIZE), core.packetAddress(slot) - VNET_SIZE);
    return;
  }
  placePacket(core, slot, bytes, input, { address: source, port: 40_000 });
  const descriptor = core.descriptorAddress(slot);
  core.view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, Number(size), true);
}

function lineOf(scene: Scene, { device, remote, segmentSize, flags, tos }: Send): string {
  const on = `Sent on \`${deviceName(scene, device)}\``;
  if ((flags & layout.SEND_FLAG_FRAME) !== 0) return `${on}, as a frame`;
  const to = remote === null ? '' : `, to \`${remote.address}\` port ${remote.port}`;
  const marked = tos === 0 ? '' : `, TOS ${tos}`;
  const cut = segmentSize === 0 ? '' : `, to be cut into sizes of ${segmentSize}`;
  return `${on}${to}${marked}${cut}`;
}

function dropsOf(scene: Scene): string | null {
  const drops = (['outbound', 'inbound'] as const).flatMap((direction: Direction) =>
    Object.entries(readDrops(scene.core, direction)).filter(([, count]) => count > 0)
      .map(([reason, count]) => `${direction} \`${reason}\`, ${count}`));
  return drops.length === 0 ? null : drops.join('; ');
}

for (const { name, tier, blocks, dropped } of readSections()) {
  test(`super-packets.md: ${name}`, () => {
    const scene = makeScene(tier);
    const given = blocks.filter(({ line }) => line.startsWith('Read'));
    const wanted = blocks.filter(({ line }) => line.startsWith('Sent'));
    assert.ok(given.length > 0, 'something is read');
    given.forEach((block, slot) => place(scene, slot, block));
    assert.is(scene.core.exports.processBatch(0, given.length, 1_000_000), given.length);
    const sends = readSends(scene.core);
    assert.equal(sends.map((send) => lineOf(scene, send)), wanted.map(({ line }) => line));
    sends.forEach(({ bytes }, index) => {
      assert.is(toHex(bytes), toHex(wanted[index]?.bytes ?? new Uint8Array(0)));
    });
    assert.is(dropsOf(scene), dropped);
  });
}

test.run();
