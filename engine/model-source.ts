// What a sidecar says of its source: the part of model.ts that is about where objects come from.

import * as v from 'valibot';
import { Count } from './fields.ts';

/** How many problems a source tells of at most, and how long each is. */
export const PROBLEM_LIMIT = 50;
export const PROBLEM_TEXT_LIMIT = 512;

/** How many kinds of objects a source follows at most. */
export const RESOURCE_LIMIT = 64;

/** How often one kind was listed again after the first time, and what was heard of its objects. */
export const ResourceCountsSchema = v.strictObject({
  resource: v.pipe(v.string(), v.minLength(1), v.maxLength(64)),
  relists: Count, added: Count, modified: Count, deleted: Count,
});
export type ResourceCounts = v.InferOutput<typeof ResourceCountsSchema>;

/** `source.health`: where the sidecar has its objects from, whether it hears of their changes now,
 * since when (Unix time) it does not, what is not in force for want of what, and what it counts. */
export const SourceHealthSchema = v.strictObject({
  source: v.pipe(v.string(), v.minLength(1), v.maxLength(64)),
  fresh: v.boolean(),
  staleSinceMs: v.nullable(Count),
  problems: v.pipe(
    v.array(v.pipe(v.string(), v.maxLength(PROBLEM_TEXT_LIMIT))), v.maxLength(PROBLEM_LIMIT)),
  resources: v.exactOptional(v.pipe(v.array(ResourceCountsSchema), v.maxLength(RESOURCE_LIMIT))),
});
export type SourceHealth = v.InferOutput<typeof SourceHealthSchema>;
