// What a packet costs where policy is a list of rules: nftables with linear rules, none of which
// match, on the way of UDP datagrams of 64 bytes from one namespace to the next.
//
//   namespace a                     namespace b, one for each number of rules
//   sendmmsg -> nft0 10.99.0.1 ==== nft0 10.99.0.2 -> input hook, N rules -> recvmmsg
//
// A veth hands datagrams over within the system call that sends them, so one thread sees the whole
// cost. It is measured as all else: batches, interleaved rounds. Needs root and the program nft.

import { spawnSync } from 'node:child_process';
import { POLLIN, waitFor } from '../ffi/poll.ts';
import { closeFd } from '../ffi/file.ts';
import { NativeBlock } from '../ffi/memory.ts';
import { MessageVector } from '../ffi/message-vector.ts';
import { Links } from '../ffi/netlink.ts';
import { createNamespace, type Namespace } from '../ffi/netns.ts';
import { openUdpSocket } from '../ffi/socket.ts';
import { writeSocketAddress } from '../ffi/address.ts';
import { findTool, toolReason } from '../scripts/tools.ts';
import { Hash } from './random.ts';
import { measure, type Effort, type Measured, type Subject } from './rounds.ts';

const SIZES = [0, 100, 1000, 10_000];
const SMALL_SIZES = [0, 10];
const BATCH = 32;
/** IPv4 and UDP headers make it 64 bytes. */
const PAYLOAD = 36;
const PORT = 9999;
const NOTHING: Measured = { results: [], ratios: {} };
const WAIT_MS = 1000;
const SOCKADDR_IN_SIZE = 16;
const SOCKET_BYTES = 256 * 1024;

export async function nftBench(effort: Effort, small: boolean): Promise<Measured> {
  const nft = findTool('nft');
  const beds: Bed[] = [];
  try {
    if (nft === null) throw new Error(toolReason('nft'));
    for (const rules of small ? SMALL_SIZES : SIZES) beds.push(await makeBed(nft, rules));
  } catch (error) {
    for (const bed of beds) bed.close();
    effort.say(`nft: skipped: ${error instanceof Error ? error.message : String(error)}`);
    return NOTHING;
  }
  const subjects = beds.map(toSubject);
  const [base, most] = [beds[1]?.rules ?? 0, beds.at(-1)?.rules ?? 0];
  const ratios = [{ name: `nft/${most}:${base}`, cost: `nft/${most}`, to: `nft/${base}` }];
  try {
    return measure('nft', subjects, ratios, effort);
  } finally {
    for (const bed of beds) bed.close();
  }
}

/** Two namespaces, and datagrams on their way from one to the other. */
interface Bed {
  rules: number;
  ruleset: string;
  /** Sends a batch and receives it. Returns how many arrived. */
  exchange: () => number;
  close: () => void;
  /** Memory that the kernel reads and writes. */
  blocks: unknown;
}

function toSubject(bed: Bed): Subject {
  const { rules, ruleset } = bed;
  let [runs, arrived] = [0, 0];
  return {
    name: `nft/${rules}`,
    opsPerRun: BATCH,
    run: () => {
      runs += 1;
      arrived += bed.exchange();
    },
    hash: () => {
      const hash = new Hash();
      hash.addBytes(new TextEncoder().encode(ruleset));
      hash.add(bed.exchange());
      return hash.text();
    },
    check: () => {
      const sent = runs * BATCH;
      if (arrived < sent) throw new Error(`nft/${rules}: ${arrived} of ${sent} datagrams arrived`);
    },
  };
}

async function makeBed(nft: string, rules: number): Promise<Bed> {
  const a = createNamespace();
  const b = createNamespace();
  const links = [a.run(() => new Links()), b.run(() => new Links())] as const;
  const close = (): void => {
    for (const end of links) end.close();
    for (const namespace of [a, b]) namespace.close();
  };
  try {
    await links[0].addVeth('nft0', 'nft0', b.fd);
    for (const [index, end] of links.entries()) {
      await end.setLink('nft0', { up: true });
      await end.addAddress('nft0', `10.99.0.${index + 1}/24`);
    }
    const ruleset = makeRuleset(rules);
    if (rules > 0) loadRules(nft, b, ruleset);
    return { rules, ruleset, ...openEnds(a, b, close) };
  } catch (error) {
    close();
    throw error;
  }
}

/** Rules that look at address and port and match nothing that is sent. */
function makeRuleset(rules: number): string {
  const lines = Array.from({ length: rules }, (_, rule) =>
    `ip saddr 10.100.${(rule >>> 8) & 255}.${rule & 255} udp dport ${PORT} drop`);
  return `table ip bench {\n chain input {\n  type filter hook input priority 0;\n${
    lines.join('\n')}\n }\n}\n`;
}

function loadRules(nft: string, namespace: Namespace, ruleset: string): void {
  const done = namespace.run(() =>
    spawnSync(nft, ['-f', '-'], { input: ruleset, encoding: 'utf8' }));
  if (done.error !== undefined) throw done.error;
  if (done.status !== 0) throw new Error(`nft: ${done.stderr.split('\n')[0] ?? ''}`);
}

function openEnds(
  a: Namespace, b: Namespace, closeAll: () => void,
): Omit<Bed, 'rules' | 'ruleset'> {
  const open = (namespace: Namespace, host: number, port: number): number =>
    namespace.run(() => openUdpSocket({
      family: 'IPv4', address: `10.99.0.${host}`, port,
      receiveBufferBytes: SOCKET_BYTES, sendBufferBytes: SOCKET_BYTES,
    }));
  const sender = open(a, 1, 0);
  const receiver = open(b, 2, PORT);
  // The vectors hold addresses only: whoever holds them must hold the blocks, too.
  const blocks = {
    sent: new NativeBlock((BATCH * PAYLOAD) + SOCKADDR_IN_SIZE),
    received: new NativeBlock(BATCH * PAYLOAD),
  };
  const target = BATCH * PAYLOAD;
  writeSocketAddress(blocks.sent.bytes.subarray(target), '10.99.0.2', PORT);
  const [outgoing, incoming] = [new MessageVector(BATCH), new MessageVector(BATCH)];
  for (let index = 0; index < BATCH; index += 1) {
    const { sent, received } = blocks;
    const offset = index * PAYLOAD;
    outgoing.set(index, sent.address + offset, PAYLOAD, sent.address + target, SOCKADDR_IN_SIZE);
    incoming.set(index, received.address + offset, PAYLOAD, 0, 0);
  }
  return {
    blocks,
    exchange: () => {
      const sent = outgoing.send(sender, 0, BATCH);
      let arrived = 0;
      while (arrived < sent) {
        const count = incoming.receive(receiver, 0, sent - arrived);
        if (count > 0) arrived += count;
        else if (waitFor(receiver, POLLIN, WAIT_MS) <= 0) break;
      }
      return arrived;
    },
    close: () => {
      closeFd(sender);
      closeFd(receiver);
      closeAll();
    },
  };
}
