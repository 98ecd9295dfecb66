// What the demo reads of the cluster's objects beside what the sidecar reads: who runs what where.

import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import { parseAllDocuments } from 'yaml';
import { isAddress } from '../../engine/address.ts';
import { parseShape } from '../../engine/shape.ts';
import type { ClusterNode } from '../../engine/model.ts';
import type { Entry } from '../../sync/objects.ts';
import { readObjects } from '../../sync/read.ts';
import { translate } from '../../sync/translate.ts';

const DEVICE_ANNOTATION = 'culvert.net/device';
const DEMO_LABEL = 'culvert.net/demo';

const ObjectSchema = v.looseObject({
  kind: v.string(),
  metadata: v.looseObject({
    name: v.string(),
    namespace: v.optional(v.string(), 'default'),
    uid: v.optional(v.string(), ''),
    labels: v.optional(v.record(v.string(), v.string()), {}),
    annotations: v.optional(v.record(v.string(), v.string()), {}),
  }),
});
const PodSchema = v.looseObject({
  spec: v.looseObject({ nodeName: v.string() }),
  status: v.looseObject({
    podIPs: v.array(v.looseObject({ ip: v.pipe(v.string(), v.check(isAddress)) })),
  }),
});

export interface DemoPod {
  namespace: string;
  name: string;
  uid: string;
  node: string;
  device: 'tun' | 'tap';
  addresses: string[];
}

export interface DemoCluster {
  nodes: ClusterNode[];
  /** Nodes that get the kernel's vxlan instead of Culvert. */
  kernelNodes: Set<string>;
  pods: DemoPod[];
  /** The objects as the sidecar reads them. */
  entries: Entry[];
}

/** Reads a file of Kubernetes objects. Throws with file, line and field where one is bad. */
export function readCluster(file: string): DemoCluster {
  const text = readFileSync(file, 'utf8');
  const content = readObjects(file, text);
  const { content: { nodes }, problems } = translate(content.entries, '');
  const [problem] = [...content.problems, ...problems];
  if (problem !== undefined) throw new Error(problem);
  const { entries } = content;
  const cluster: DemoCluster = { nodes, kernelNodes: new Set(), pods: [], entries };
  for (const document of parseAllDocuments(text)) {
    const value: unknown = document.toJS();
    if (value === null) continue;
    const { kind, metadata } = parseShape(ObjectSchema, value, file);
    if (kind === 'Node' && metadata.labels[DEMO_LABEL] === 'kernel-vxlan') {
      cluster.kernelNodes.add(metadata.name);
    }
    if (kind !== 'Pod') continue;
    const { spec, status } = parseShape(PodSchema, value, `${file}: Pod ${metadata.name}`);
    cluster.pods.push({
      namespace: metadata.namespace,
      name: metadata.name,
      uid: metadata.uid,
      node: spec.nodeName,
      device: metadata.annotations[DEVICE_ANNOTATION] === 'tap' ? 'tap' : 'tun',
      addresses: status.podIPs.map(({ ip }) => ip),
    });
  }
  return cluster;
}
