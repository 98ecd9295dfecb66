// Two nodes, the first of which has policy modules, and pods that anybody may reach but for what
// modules say. Modules are added over control.sock, as the command does it.
//
//   namespace node-1                 hub (router)             namespace node-2
//   culvert run, with modules                                 culvert run
//   eth0 192.0.2.1  2001:db8::1 ---- port0   port1 ---- eth0 192.0.2.2  2001:db8::2
//     +-- pod-1-10  10.244.1.10                           +-- pod-2-10  10.244.2.10
//     +-- pod-1-11  10.244.1.11

import { createHash } from 'node:crypto';
import * as v from 'valibot';
import { withDaemon } from '../../../cli/client.ts';
import type { Bed, Host } from '../../../cli/demo/bed.ts';
import {
  MODULE_PART_BYTES, ModuleReportSchema, type ModuleAdd, type ModuleReport,
} from '../../../engine/model-modules.ts';
import { pageOf, type StatusReport } from '../../../engine/model.ts';
import { openBed, Place } from './forge-scene.ts';
import { podAddress } from './forge-cluster.ts';
import { Voice, podPolicy } from './policy-scene.ts';

const NODES = [1, 2];
export const REMOTE = podAddress(2, 10, 'IPv4');

export class ModuleScene {
  readonly bed: Bed;
  readonly one: Place;
  readonly two: Place;
  readonly first: Host;
  readonly second: Host;
  readonly remote: Host;
  readonly #voices: Voice[];

  private constructor(
    bed: Bed, places: [Place, Place], hosts: [Host, Host, Host], voices: Voice[],
  ) {
    this.bed = bed;
    [this.one, this.two] = places;
    [this.first, this.second, this.remote] = hosts;
    this.#voices = voices;
  }

  /** `flags` are of the first node's daemon. */
  static async make(flags: string[] = []): Promise<ModuleScene> {
    const bed = await openBed();
    try {
      const [one, two] = [await Place.add(bed, 1, NODES, flags), await Place.add(bed, 2, NODES)];
      await Promise.all([one.culvert.startDaemon(), two.culvert.startDaemon()]);
      const voices = [await Voice.start(one, NODES), await Voice.start(two, NODES)];
      await voices[0]?.say({ endpoints: [podPolicy(1, 10, 0, 0), podPolicy(1, 11, 0, 0)] });
      await voices[1]?.say({ endpoints: [podPolicy(2, 10, 0, 0)] });
      const first = (await one.addPod(10)).host;
      const second = (await one.addPod(11)).host;
      const remote = (await two.addPod(10)).host;
      for (const { agent } of [first, second, remote]) await agent.ask({ verb: 'serve' });
      return new ModuleScene(bed, [one, two], [first, second, remote], voices);
    } catch (error) {
      await bed.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    for (const voice of this.#voices) voice.close();
    await this.bed.close();
  }

  /** Adds a module to the first node. */
  add(component: Uint8Array, settings: Partial<ModuleAdd> & { text?: string } = {})
    : Promise<ModuleReport> {
    const { text = '', ...others } = settings;
    const add: ModuleAdd = {
      sha256: createHash('sha256').update(component).digest('hex'),
      name: null, order: null, config: new TextEncoder().encode(text), failure: 'deny',
      mayAllow: false, perPacket: false, allow: [], memoryCapBytes: null, ...others,
    };
    return withDaemon(this.one.culvert.runtimeDirectory, async (connection) => {
      for (let at = 0; at < component.length; at += MODULE_PART_BYTES) {
        const bytes = component.slice(at, at + MODULE_PART_BYTES);
        await connection.request('module.part', { bytes }, v.null());
      }
      return connection.request('module.add', add, ModuleReportSchema);
    }, { isLong: true });
  }

  remove(name: string): Promise<ModuleReport> {
    return withDaemon(this.one.culvert.runtimeDirectory, (connection) =>
      connection.request('module.remove', { name }, ModuleReportSchema));
  }

  list(): Promise<ModuleReport[]> {
    return withDaemon(this.one.culvert.runtimeDirectory, async (connection) => {
      const { entries } = await connection.request(
        'module.list', { from: 0 }, pageOf(ModuleReportSchema));
      return entries;
    });
  }

  status(): Promise<StatusReport> {
    return this.one.culvert.status();
  }
}
