// A data plane whose underlay is on the loopback interface, its far end a socket of the test:
//
//   [ far: 127.0.0.1, the node `edge` ]----loopback----[ underlay of the worker ]
//
// What `edge` sends to an address of ours that nobody has is answered by the core, through the
// underlay: so a packet goes in and out without a TUN.

import { readdirSync } from 'node:fs';
import { DEVICE_UNDERLAY_IPV4 } from '../../../wasm/abi/layout.ts';
import type { Log } from '../../../engine/log.ts';
import { errnoName } from '../../../ffi/errno.ts';
import { closeFd } from '../../../ffi/file.ts';
import { receiveFrom, sendTo } from '../../../ffi/raw-socket.ts';
import { localPort, openUdpSocket } from '../../../ffi/socket.ts';
import { DataPlane } from '../../../host/data-plane.ts';
import type { FaultOptions } from '../../../host/device/fault.ts';
import type { ModuleReports } from '../../../host/modules/instances.ts';
import type { Stuck } from '../../../host/supervisor.ts';
import type { DeviceSpec } from '../../../host/worker.ts';
import { coreModule, TEST_LIMITS } from '../../support/core.ts';
import { HOME, makeHome } from '../../support/home.ts';
import { ETHER_TYPE, PROTOCOL, ethernet, ipv4, udp, vxlan } from '../../support/packets.ts';
import type { Scene } from '../../support/scene.ts';
import { until } from '../../support/until.ts';

const LOCAL = '127.0.0.1';
export const CRASH_AT_FIRST: FaultOptions = {
  seed: 1, drop: 0, corrupt: 0, duplicate: 0, reorder: 0, crashAfter: 1,
};

export interface Bench {
  scene: Scene;
  dataPlane: DataPlane;
  far: number;
  spec: DeviceSpec;
  lost: [index: number, error: string][];
  stuck: Stuck[];
  /** Told what workers tell of modules. */
  onModule(report: ModuleReports): void;
  /** Of log lines. */
  said: string[];
  /** The test has called stop() itself. */
  isStopped: boolean;
}

function openSocket(): number {
  return openUdpSocket({
    family: 'IPv4', address: LOCAL, port: 0, receiveBufferBytes: 1 << 18, sendBufferBytes: 1 << 18,
  });
}

/** One worker where `workers` does not say otherwise; only the first one's socket gets anything. */
export async function withDataPlane(
  body: (bench: Bench) => Promise<void>, workers = 1,
): Promise<void> {
  const far = openSocket();
  const receivers = Array.from({ length: workers }, openSocket);
  const [edge] = HOME.remotes;
  if (edge === undefined) throw new Error('home has a remote');
  const tunnels = edge.tunnels.slice(0, 1)
    .map((tunnel) => ({ ...tunnel, remote: LOCAL, port: localPort(far) }));
  const remotes = [{ ...edge, tunnels, addresses: [] }];
  const scene = makeHome({ remotes, icmpBurst: 100_000 }, { ...TEST_LIMITS, workers });
  const lost: Bench['lost'] = [];
  const stuck: Stuck[] = [];
  const said: string[] = [];
  const note = (_: unknown, text: string): void => void said.push(text);
  const log: Log = { debug: note, info: note, warn: note, error: note };
  const dataPlane = new DataPlane({
    core: scene.core, module: coreModule(), log,
    onLost: (index, errno) => void lost.push([index, errnoName(errno)]),
    onTapLost: () => void lost.push([-1, 'tap']),
    onModule: (report) => bench.onModule(report),
    onStuck: (one) => void stuck.push(one),
  });
  const spec: DeviceSpec = {
    index: DEVICE_UNDERLAY_IPV4, name: 'underlay', kind: 'udp', receivers,
    senders: receivers.slice(0, 1), vnetSize: 0, tunnelTap: -1, pcap: null, fault: null,
  };
  const bench: Bench = {
    scene, dataPlane, far, spec, lost, stuck, said, onModule: () => {}, isStopped: false,
  };
  try {
    await body(bench);
  } finally {
    if (!bench.isStopped) await dataPlane.stop();
    closeFd(far);
    for (const receiver of receivers) closeFd(receiver);
  }
}

/** The descriptor that the first worker reads. */
export function receiverOf({ receivers }: DeviceSpec): number {
  return receivers[0] ?? -1;
}

/** Sends what the core answers with an ICMP error. */
export function ask({ far, spec }: Bench): void {
  const fields = { source: '10.244.1.9', destination: '10.244.0.200' };
  const inner = ipv4({ ...fields, protocol: PROTOCOL.udp },
    udp({ ...fields, sourcePort: 4000, destinationPort: 53 }, Uint8Array.of(1)));
  const frame = ethernet({
    destination: '0e:00:00:00:04:10', source: '0e:00:00:00:04:11', type: ETHER_TYPE.ipv4,
  }, inner);
  sendTo(far, vxlan({ vni: 1 }, frame), LOCAL, localPort(receiverOf(spec)));
}

/** Takes one answer, if one is there. */
export function hasAnswer({ far }: Bench): boolean {
  return receiveFrom(far, new Uint8Array(2048), 0) !== null;
}

export async function askAndHear(bench: Bench): Promise<void> {
  ask(bench);
  await until('an answer of the core', () => hasAnswer(bench));
}

/** Makes the worker crash: its device throws at the first packet it sends. */
export async function crash(bench: Bench): Promise<void> {
  const { crashes } = bench.dataPlane;
  ask(bench);
  await until('a crash', () => bench.dataPlane.crashes > crashes);
}

export function descriptorCount(): number {
  return readdirSync('/proc/self/fd').length;
}
