// Sockets of the tunnels that are not the cluster's VXLAN: of UDP at another port, or raw ones of
// IP in IP. Each is for what comes by one device of the core; UDP leaves by the sockets that VXLAN
// leaves by.

import { DEVICE_IP6IP_IPV4 } from '../wasm/abi/layout.ts';
import { PROTOCOL_IPV4, PROTOCOL_IPV6 } from '../wasm/abi/headers.ts';
import type { Family } from '../engine/address.ts';
import type { TunnelNeed } from '../engine/tunnel-needs.ts';
import { closeFd } from '../ffi/file.ts';
import { openTunnelSocket } from '../ffi/raw-socket.ts';
import {
  joinDatagrams, openUdpSocket, receiveTos, shareAddress,
} from '../ffi/socket.ts';
import type { Handover } from './handover.ts';
import { RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES } from './limits.ts';

/** What these sockets are kept under, each with its device, address and place behind a dot. */
export const KEPT_TUNNEL_PREFIX = 'tunnel.';

/** What receiving sockets are like. */
export interface ReceiverOptions {
  /** Receiving sockets of each address. */
  workers: number;
  /** They get datagrams of a flow joined. */
  joins: boolean;
  handover: Handover;
}

/** Sockets by which one kind of tunnel arrives and leaves. `receivers` has one for each worker, -1
 * for one that has none. */
export interface TunnelSockets {
  need: TunnelNeed;
  receivers: number[];
  senders: number[];
}

/** Opens what a tunnel needs at an address, or takes what was left. UDP leaves by `senders`. */
export function openTunnelSockets(
  need: TunnelNeed, address: string, senders: number[], options: ReceiverOptions,
): TunnelSockets {
  if (need.kind === 'ipip') return openRaw(need, address, options);
  const keptAs = tunnelKeptName(need, address);
  const receivers = openReceivers(
    { family: need.family, address, port: need.port, keptAs: `${keptAs}.receiver` }, options);
  return { need, receivers, senders };
}

/** A raw socket gets every packet of its protocol, however many there are: one worker has it. */
function openRaw(need: TunnelNeed, address: string, options: ReceiverOptions): TunnelSockets {
  const { handover, workers } = options;
  const keptAs = `${tunnelKeptName(need, address)}.raw`;
  const left = handover.take(keptAs);
  const protocol = need.device < DEVICE_IP6IP_IPV4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
  const fd = left >= 0 ? left : openTunnelSocket({
    family: need.family, address, protocol,
    receiveBufferBytes: RECEIVE_BUFFER_BYTES, sendBufferBytes: SEND_BUFFER_BYTES,
  });
  if (left < 0) handover.keep(keptAs, fd);
  return { need, receivers: Array.from({ length: workers }, (_, at) => at === 0 ? fd : -1),
    senders: [fd] };
}

/** Closes them. `handover` is to keep nothing of them, where it is given. */
export function closeTunnelSockets(
  { need, receivers }: TunnelSockets, address: string, handover?: Handover,
): void {
  const keptAs = tunnelKeptName(need, address);
  handover?.forgetAll(`${keptAs}.receiver`);
  handover?.forget(`${keptAs}.raw`);
  for (const fd of receivers) if (fd >= 0) closeFd(fd);
}

/** A keeper's names have no colon. */
function tunnelKeptName({ device, port }: TunnelNeed, address: string): string {
  return `${KEPT_TUNNEL_PREFIX}${address.replaceAll(':', '_')}.${device}.${port}`;
}

/** Where receiving sockets are bound, and what they are kept under. */
export interface ReceiverPlace {
  family: Family;
  address: string;
  port: number;
  keptAs: string;
}

/** Opens a socket for each worker, or takes those that were left. The first is alone until it is
 * bound, so that a port that is in use is noticed. */
export function openReceivers(place: ReceiverPlace, options: ReceiverOptions): number[] {
  const { family, address, port, keptAs } = place;
  const { workers, joins, handover } = options;
  const receivers = handover.takeAll(keptAs, workers);
  if (receivers.length > 0) return receivers;
  try {
    while (receivers.length < workers) {
      const receiver = openUdpSocket({
        family, address, port,
        receiveBufferBytes: RECEIVE_BUFFER_BYTES, sendBufferBytes: SEND_BUFFER_BYTES,
        joinsGroup: receivers.length > 0,
      });
      receivers.push(receiver);
      if (workers > 1) shareAddress(receiver);
      receiveTos(receiver, family);
      if (joins) joinDatagrams(receiver);
    }
  } catch (error) {
    for (const fd of receivers) closeFd(fd);
    throw error;
  }
  handover.keepAll(keptAs, receivers);
  return receivers;
}
