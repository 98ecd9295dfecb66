// A cluster's first nodes only, for machines that are too small or too slow for all of them: a file
// of objects without the other nodes, and without what runs there.

import { readFileSync, writeFileSync } from 'node:fs';
import * as v from 'valibot';
import { parseAllDocuments, stringify } from 'yaml';
import { CommandError, EXIT_FAILED } from '../exit.ts';

/** Fewer have nobody to speak to. */
const LEAST_NODES = 2;

const ObjectSchema = v.looseObject({
  kind: v.string(),
  metadata: v.looseObject({ name: v.string() }),
  spec: v.optional(v.looseObject({ nodeName: v.optional(v.string()) })),
  endpoints: v.optional(v.array(v.looseObject({ nodeName: v.optional(v.string()) }))),
});
type KubernetesObject = v.InferOutput<typeof ObjectSchema>;

/** Writes what is left of `file` with its first `count` nodes to `target`. Returns the names of the
 * nodes that are left out. Precondition: readCluster() takes the file. */
export function keepNodes(file: string, count: number, target: string): string[] {
  const objects = parseAllDocuments(readFileSync(file, 'utf8'))
    .map((document): unknown => document.toJS())
    .filter((value) => value !== null)
    .map((value) => v.parse(ObjectSchema, value));
  const nodes = objects.filter(({ kind }) => kind === 'Node').map(({ metadata }) => metadata.name);
  if (!Number.isInteger(count) || count < LEAST_NODES || count > nodes.length) {
    throw new CommandError(EXIT_FAILED,
      `demo --nodes ${count}: ${file} has ${nodes.length}, and at least ${LEAST_NODES} are needed`);
  }
  const left = nodes.slice(count);
  const stays = (name: string | undefined): boolean => name === undefined || !left.includes(name);
  const kept = objects
    .filter(({ kind, metadata, spec }) =>
      stays(kind === 'Node' ? metadata.name : kind === 'Pod' ? spec?.nodeName : undefined))
    .map((object): KubernetesObject => (object.endpoints === undefined ? object
      : { ...object, endpoints: object.endpoints.filter(({ nodeName }) => stays(nodeName)) }));
  writeFileSync(target, kept.map((object) => stringify(object)).join('---\n'));
  return left;
}
