// What the kernel drops because a queue is full: nobody empties one without processor time.

import { readFileSync } from 'node:fs';
import type { Host } from '../../../cli/demo/bed.ts';

/** Where packets go: out of a device of one host, through a node to another host. */
export interface Way {
  from: Host;
  device: string;
  through: Host;
  to: Host;
}

/** What the queues along a way have dropped so far: of the device that leads to the daemon, and of
 * the sockets of the node and of the listener. */
export function overflowOn({ from, device, through, to }: Way): number {
  const [line = ''] = new RegExp(`${device}:.*`).exec(readIn(from, 'dev')) ?? [];
  const sent = line.split(':')[1]?.trim().split(/ +/).slice(8) ?? [];
  return [through, to].reduce((sum, host) => sum + socketDrops(host), Number(sent[3] ?? 0));
}

/** Datagrams that found a socket's queue full, IPv4 and IPv6. */
function socketDrops(host: Host): number {
  const [names = '', values = ''] = readIn(host, 'snmp').match(/^Udp: .*$/gm) ?? [];
  const ipv4 = values.split(' ')[names.split(' ').indexOf('RcvbufErrors')];
  const ipv6 = /^Udp6RcvbufErrors\s+(\d+)$/m.exec(readIn(host, 'snmp6'));
  return Number(ipv4 ?? 0) + Number(ipv6?.[1] ?? 0);
}

function readIn({ namespace }: Host, file: string): string {
  return namespace.run(() => readFileSync(`/proc/thread-self/net/${file}`, 'utf8'));
}
