// Pods that outlive a daemon: the next one may know their devices by other indexes than the last.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Core } from '../../engine/core.ts';
import type { Endpoints } from '../../host/endpoints.ts';
import type { Handover, PodRecord } from '../../host/handover.ts';
import { nothingRecovered, recoverPackets, restorePods } from '../../host/recovery.ts';
import { coreModule, TEST_LIMITS } from '../support/core.ts';
import { SILENT } from '../support/follower.ts';

function recordOf(pod: string, index: number): PodRecord {
  const endpoint = {
    namespace: 'test', name: pod, uid: pod, addresses: ['10.1.0.2'], device: 'tun' as const,
    interfaceName: 'eth0', mtu: 1450, netns: '',
  };
  return { endpoint, device: 'tun0', mac: null, isCni: false, index };
}

/** Keeps records as a handover does, and gives pods indexes in the order in which they come. */
class Keeper {
  readonly records = new Map<string, PodRecord>();
  #next = 20;

  pods(): { name: string; record: PodRecord }[] {
    return [...this.records].map(([name, record]) => ({ name, record }));
  }

  writePod(name: string, record: PodRecord): void {
    this.records.set(name, record);
  }

  async restore({ endpoint }: PodRecord): Promise<object> {
    const index = this.#next;
    this.#next += 1;
    return { index, name: endpoint.name, kind: 'tun', receivers: [], senders: [] };
  }
}

test('a record says which index the device has now, once its packets are recovered', async () => {
  const keeper = new Keeper();
  keeper.writePod('one', recordOf('one', 20));
  keeper.writePod('three', recordOf('three', 22));
  const recovered = nothingRecovered();
  const pods = await restorePods(keeper as unknown as Handover, keeper as unknown as Endpoints,
    [], recovered, SILENT);
  assert.equal([...pods.indexes], [[20, 20], [22, 21]]);
  const indexes = (): number[] => keeper.pods().map(({ record }) => record.index);
  assert.equal(indexes(), [20, 22], 'what is in hand is still known by the old ones');
  recoverPackets(Core.create(coreModule(), TEST_LIMITS), true, pods, recovered, keeper);
  assert.equal(indexes(), [20, 21]);
});

test.run();
