// What the ways to peers take: path MTU discovery, RFC 1191 and RFC 8201.
//
// Theory of operation. Outer packets leave with DF clear: on IPv4 routers fragment what is too
// large for them, and nobody hears of it; on IPv6 the kernel does, once a router has told it. So
// all gets through, at the cost of fragments. To be rid of these, paths are probed: a peer that
// something was sent to gets a datagram with DF set, as large as its path is held to take, at the
// discard port (RFC 863). A router that cannot pass it on says what it can, and from then on the
// packets of pods are held to that; they hear of it by the core's own ICMP errors. Who does not
// answer, or cannot be heard, changes nothing. A path is probed again at once after each answer,
// for the next router may take still less, and every PROBE_MS while something is sent. What a path
// takes may become more: after AGE_MS it is probed with all that the link takes.
//
// A probe tells an error about it from one that somebody made up. Each round of probes has a socket
// of its own, at a port that the kernel chooses, open until the next look: the kernel gives it
// errors that quote its address and port. An error has to quote a peer that was probed in this
// round, and of the payload, which begins with random bytes, as much as it quotes; of routers that
// quote no payload (RFC 792) the port alone is known. And it has to say less than the probe's size,
// of IPv6 no less than every link takes (RFC 8201 section 4).

import { randomBytes } from 'node:crypto';
import { addressFamily, type Family } from '../engine/address.ts';
import type { Core } from '../engine/core.ts';
import { readTraffic } from '../engine/counters.ts';
import type { Forwarding, Peer } from '../engine/forwarding.ts';
import type { Log } from '../engine/log.ts';
import { closeFd } from '../ffi/file.ts';
import { openProbeSocket, readTooBig, sendProbe, type TooBig } from '../ffi/path-probe.ts';
import {
  IPV6_MINIMUM_MTU, UDP_OVERHEAD_IPV4, UDP_OVERHEAD_IPV6,
} from '../wasm/abi/headers.ts';
import { IPV4_MTU_MIN } from './config.ts';
import { overlayMtu } from './derived.ts';
import type { Host } from './main.ts';
import { tellSubnet } from './subnet-env.ts';
import type { Underlay } from './underlay.ts';

/** How long an answer may take, and how long a peer waits for its first probe. */
const LOOK_MS = 1000;
/** How often a path in use is probed. */
const PROBE_MS = 60_000;
/** RFC 1191 section 6.3: how long it is before an increase is looked for. */
const AGE_MS = 600_000;
/** Peers that are looked at each time, and probes that leave: of many peers each gets its turn. */
const LOOK_LIMIT = 256;
const PROBE_LIMIT = 32;
const DISCARD_PORT = 9;
const NONCE_BYTES = 16;

const OVERHEADS: Readonly<Record<Family, number>> = {
  IPv4: UDP_OVERHEAD_IPV4, IPv6: UDP_OVERHEAD_IPV6,
};

/** What is known of a peer's path beside its MTU. */
interface Path {
  remote: string;
  /** When its MTU was last told, or confirmed by being told again. */
  learnedMs: number;
  probedMs: number;
  /** What had been sent to the peer by then. */
  txBytes: number;
  /** It is to be probed again at once. */
  isOpen: boolean;
}

interface Probe {
  peer: Peer;
  path: Path;
  size: number;
  hasLeft: boolean;
}

/** Probes that have left at one time, and what they left by. */
interface Round {
  sockets: Map<Family, number>;
  nonce: Buffer;
  probes: Map<string, Probe>;
}

export interface PathMtusOptions {
  core: Core;
  forwarding: Forwarding;
  underlay: Pick<Underlay, 'addresses' | 'mtu'>;
  log: Log;
}

/** Probes the paths to peers, and has packets held to what they take. */
export class PathMtus {
  /** Errors that were taken, errors that were refused, and paths found wider again. */
  readonly counts = { taken: 0, refused: 0, widened: 0 };
  readonly #options: PathMtusOptions;
  #paths = new WeakMap<Peer, Path>();
  #walk: Iterator<Peer> | null = null;
  #round: Round | null = null;
  #timer: NodeJS.Timeout | undefined;
  #told = '';

  constructor(options: PathMtusOptions) {
    this.#options = options;
  }

  /** Probes from now on, until close(). */
  begin(): void {
    this.#timer = setInterval(() => this.#try(() => this.look(performance.now())), LOOK_MS)
      .unref();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#endRound();
  }

  /** Takes the answers to the last probes, and sends the next ones. */
  look(nowMs: number): void {
    this.#readAnswers(nowMs);
    this.#endRound();
    const probes = this.#due(nowMs);
    if (probes.length > 0) this.#probe(probes);
  }

  /** Forgets what paths take: they begin with another link. */
  forget(): void {
    this.#endRound();
    this.#paths = new WeakMap();
    const { forwarding } = this.#options;
    for (const peer of forwarding.peers.values()) forwarding.setPathMtu(peer, null);
  }

  #try(work: () => void): void {
    try {
      work();
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#told) {
        this.#options.log.warn({ error: message }, 'cannot probe the paths to peers');
      }
      this.#told = message;
    }
  }

  #endRound(): void {
    for (const fd of this.#round?.sockets.values() ?? []) closeFd(fd);
    this.#round = null;
  }

  /** What is to be probed now, each of another address. */
  #due(nowMs: number): Probe[] {
    const { peers } = this.#options.forwarding;
    const remotes = new Set<string>();
    const probes: Probe[] = [];
    for (let left = Math.min(LOOK_LIMIT, peers.size); left > 0; left -= 1) {
      const peer = this.#nextPeer();
      const probe = remotes.has(peer.tunnel.remote) ? null : this.#probeOf(peer, nowMs);
      if (probe === null) continue;
      remotes.add(probe.path.remote);
      probes.push(probe);
      if (probes.length === PROBE_LIMIT) break;
    }
    return probes;
  }

  /** Goes round the peers, of which there has to be one. */
  #nextPeer(): Peer {
    for (;;) {
      this.#walk ??= this.#options.forwarding.peers.values();
      const { value, done } = this.#walk.next();
      if (done !== true) return value;
      this.#walk = null;
    }
  }

  /** The probe that a peer's path needs now; null for none. */
  #probeOf(peer: Peer, nowMs: number): Probe | null {
    const { core, underlay } = this.#options;
    const { tunnel: { kind, remote } } = peer;
    if (kind === 'direct' || underlay.addresses[addressFamily(remote)] === undefined) return null;
    const path = this.#pathTo(peer, remote);
    if (!path.isOpen && nowMs - path.probedMs < PROBE_MS) return null;
    const { txBytes } = readTraffic(core, peer.nextHop);
    if (!path.isOpen && txBytes === path.txBytes) return null;
    Object.assign(path, { probedMs: nowMs, txBytes, isOpen: false });
    const isOld = nowMs - path.learnedMs >= AGE_MS;
    const size = isOld ? underlay.mtu : Math.min(underlay.mtu, peer.pathMtu ?? Infinity);
    return { peer, path, size, hasLeft: false };
  }

  #pathTo(peer: Peer, remote: string): Path {
    const known = this.#paths.get(peer);
    if (known?.remote === remote) return known;
    const never = Number.NEGATIVE_INFINITY;
    const path = { remote, learnedMs: never, probedMs: never, txBytes: 0, isOpen: false };
    this.#paths.set(peer, path);
    return path;
  }

  #probe(probes: Probe[]): void {
    const round: Round = {
      sockets: new Map(), nonce: randomBytes(NONCE_BYTES),
      probes: new Map(probes.map((probe) => [probe.path.remote, probe])),
    };
    this.#round = round;
    const payload = new Uint8Array(Math.max(...probes.map(({ size }) => size)));
    payload.set(round.nonce);
    for (const probe of probes) {
      this.#try(() => {
        const { path: { remote }, size } = probe;
        const family = addressFamily(remote);
        const bytes = payload.subarray(0, size - OVERHEADS[family]);
        probe.hasLeft = sendProbe(this.#socketOf(round, family), bytes, remote, DISCARD_PORT);
      });
    }
    this.#options.log.debug({ probes: probes.length }, 'paths probed');
  }

  #socketOf({ sockets }: Round, family: Family): number {
    const fd = sockets.get(family)
      ?? openProbeSocket(family, this.#options.underlay.addresses[family] ?? '');
    sockets.set(family, fd);
    return fd;
  }

  #readAnswers(nowMs: number): void {
    if (this.#round === null) return;
    const { sockets, probes, nonce } = this.#round;
    const answered = new Set<Probe>();
    for (const fd of sockets.values()) {
      for (const answer of readTooBig(fd, NONCE_BYTES)) {
        const probe = probes.get(answer.remote);
        if (probe === undefined || !isCredible(answer, probe, nonce)) {
          this.counts.refused += 1;
        } else if (!answered.has(probe)) {
          answered.add(probe);
          this.#narrow(probe, answer.mtu, nowMs);
        }
      }
    }
    for (const probe of probes.values()) {
      if (!answered.has(probe) && probe.hasLeft) this.#confirm(probe);
    }
  }

  #narrow({ peer, path }: Probe, mtu: number, nowMs: number): void {
    const { forwarding, log } = this.#options;
    // Routers fragment for the rest.
    const held = Math.max(mtu, IPV4_MTU_MIN);
    path.learnedMs = nowMs;
    if (held === peer.pathMtu) return;
    path.isOpen = true;
    this.counts.taken += 1;
    forwarding.setPathMtu(peer, held);
    log.info({ peer: peer.node, remote: path.remote, mtu: held }, 'what the path to a peer takes');
  }

  /** Nobody minds the probe: the path takes it. Where that is more than it was held to, a second
   * probe makes sure. */
  #confirm({ peer, path, size }: Probe): void {
    const { forwarding, log } = this.#options;
    if (peer.pathMtu === null || size <= peer.pathMtu) return;
    path.isOpen = true;
    this.counts.widened += 1;
    forwarding.setPathMtu(peer, null);
    const fields = { peer: peer.node, remote: path.remote };
    log.info(fields, 'the path to a peer takes what the link does');
  }
}

/** True for an error that only who has seen the probe can know of, and that says what can be. */
function isCredible(
  { mtu, isLocal, quote, remote }: TooBig, { size }: Probe, nonce: Buffer,
): boolean {
  if (mtu === 0 || mtu >= size) return false;
  if (isLocal) return true;
  if (addressFamily(remote) === 'IPv6' && mtu < IPV6_MINIMUM_MTU) return false;
  return nonce.subarray(0, quote.length).equals(quote);
}

/** Goes by the underlay's MTU as it is now. Pods keep the one that they were attached with: they
 * hear of what is too large. */
export async function takeUnderlayMtu(host: Host): Promise<void> {
  const { underlay, forwarding, pathMtus, nodeDevice, intake, options: { config, log } } = host;
  forwarding.setUnderlayMtu(underlay.mtu);
  pathMtus.forget();
  await nodeDevice.setMtu(overlayMtu(underlay, config));
  tellSubnet(config, nodeDevice, log);
  intake.tellNode();
}
