// A node for tests of the command, with a server, who may call it, and who may not.
//
//   [ node-1: culvert run, culvert sync ]
//     |             |             |
//   pod-1-10      pod-1-11      pod-1-12
//   8080 is open to pod-1-11 alone

import * as assert from 'uvu/assert';
import type { Bed } from '../../../cli/demo/bed.ts';
import { clusterNode } from '../../netns/support/forge-cluster.ts';
import { Place, openBed, type Pod } from '../../netns/support/forge-scene.ts';

export const PORT = 8080;
export const REACH_MS = 8000;
const BLOCKED_MS = 300;
const FRIEND = 'pod-1-11';
const POLICY = {
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name: 'friends', namespace: 'test' },
  spec: {
    podSelector: { matchLabels: { name: 'pod-1-10' } },
    policyTypes: ['Ingress'],
    ingress: [{
      from: [{ podSelector: { matchLabels: { name: FRIEND } } }],
      ports: [{ protocol: 'TCP', port: PORT }],
    }],
  },
};

export interface Friends { bed: Bed; one: Place; server: Pod; friend: Pod; stranger: Pod }

/** Starts the node, of a cluster of these, and its pods. */
export async function openFriends(nodes: number[]): Promise<Friends> {
  const bed = await openBed();
  try {
    const one = await Place.add(bed, 1, nodes);
    one.write(nodes.map(clusterNode), [POLICY]);
    await one.culvert.start();
    const [server, friend] = [await one.addPod(10), await one.addPod(11)];
    const stranger = await one.addPod(12);
    await server.host.agent.ask({ verb: 'serve' });
    return { bed, one, server, friend, stranger };
  } catch (error) {
    await bed.close();
    throw error;
  }
}

/** Opens a connection to the server, which succeeds only for its friend. */
export async function call(
  { server }: Friends, from: Pod, family: 'IPv4' | 'IPv6',
): Promise<void> {
  const [ipv4 = '', ipv6 = ''] = server.addresses;
  const isFriend = from.name === FRIEND;
  const { ok } = await from.host.agent.ask({
    verb: 'tcp', address: family === 'IPv4' ? ipv4 : ipv6,
    timeoutMs: isFriend ? REACH_MS : BLOCKED_MS,
  });
  assert.is(ok, isFriend);
}

/** The words of a command to this node's daemon. */
export function wordsOf({ one }: Friends, words: string): string[] {
  return [...words.split(' '), '--runtime-directory', one.culvert.runtimeDirectory];
}
