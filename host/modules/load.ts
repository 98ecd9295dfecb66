// What a data worker is told of policy modules: which instance sits at which place of the core's
// table. Data that threads can send each other.

import type { ModuleImage } from '../../modules/runtime.ts';

/** A pod of this node as modules are told of it. */
export interface ModuleEndpoint {
  id: number;
  namespace: string;
  pod: string;
  labels: { key: string; value: string }[];
}

/** A module to be instantiated. */
export interface ModuleLoad {
  name: string;
  image: ModuleImage;
  config: Uint8Array;
}

/** What is to sit at a place; null for nothing. */
export interface ModuleChange {
  place: number;
  load: ModuleLoad | null;
}

/** Everything that a thread has to know which starts. */
export interface ModulesOfWorker {
  changes: ModuleChange[];
  endpoints: ModuleEndpoint[];
}
