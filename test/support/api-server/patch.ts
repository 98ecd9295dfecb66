// The three kinds of patches that a server takes: JSON merge patch (RFC 7386), JSON patch
// (RFC 6902: add, replace, remove), and the API's own strategic merge patch, where some lists are
// merged by a key.

import type { Fields, KubeObject } from './resources.ts';
import { Refusal, badRequest, failure } from './status.ts';

/** Lists that a strategic merge patch merges, and by which field. */
const MERGE_KEYS: Record<string, string> = {
  conditions: 'type', addresses: 'type', podIPs: 'ip', hostIPs: 'ip', containers: 'name',
  env: 'name', volumes: 'name', taints: 'key',
};
/** Lists of plain values that are merged as sets. */
const MERGED_SETS = new Set(['finalizers', 'podCIDRs']);

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** RFC 7386: null deletes, objects are merged, anything else replaces. */
function mergePatch(old: unknown, change: unknown): unknown {
  if (!isFields(change)) return change;
  const result: Fields = isFields(old) ? { ...old } : {};
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value);
  }
  return result;
}

function strategic(old: unknown, change: unknown, field: string): unknown {
  if (Array.isArray(change)) return strategicList(old, change as unknown[], field);
  if (!isFields(change)) return change;
  if (change['$patch'] === 'replace') {
    const { $patch: _patch, ...rest } = change;
    return rest;
  }
  const result: Fields = isFields(old) ? { ...old } : {};
  for (const [key, value] of Object.entries(change)) {
    if (key.startsWith('$')) continue;
    if (value === null) delete result[key];
    else result[key] = strategic(result[key], value, key);
  }
  return result;
}

function strategicList(old: unknown, change: unknown[], field: string): unknown {
  const before: unknown[] = Array.isArray(old) ? old : [];
  if (MERGED_SETS.has(field)) return [...new Set([...before, ...change])];
  const key = MERGE_KEYS[field];
  if (key === undefined) return change;
  const result = [...before];
  for (const item of change) {
    if (!isFields(item)) return change;
    const at = result.findIndex((entry) => isFields(entry) && entry[key] === item[key]);
    if (item['$patch'] === 'delete') {
      if (at >= 0) result.splice(at, 1);
    } else if (at >= 0) {
      result[at] = strategic(result[at], item, '');
    } else {
      result.push(item);
    }
  }
  return result;
}

interface Operation {
  op: string;
  path: string;
  value?: unknown;
}

function jsonPatch(old: KubeObject, operations: Operation[]): KubeObject {
  const result = structuredClone(old);
  for (const { op, path, value } of operations) {
    const parts = path.split('/').slice(1)
      .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
    const last = parts.pop() ?? '';
    let target: unknown = result;
    for (const part of parts) target = (target as Fields | undefined)?.[part];
    if (!isFields(target) && !Array.isArray(target)) {
      throw new Refusal(failure(422, 'Invalid', `the server rejected our request: no ${path}`));
    }
    if (Array.isArray(target)) {
      const at = last === '-' ? target.length : Number(last);
      if (op === 'remove') target.splice(at, 1);
      else target.splice(at, op === 'replace' ? 1 : 0, value);
    } else if (op === 'remove') {
      delete target[last];
    } else {
      target[last] = value;
    }
  }
  return result;
}

/** A copy of an object with a patch applied. Refuses a kind of patch that a server refuses. */
export function applyPatch(old: KubeObject, body: unknown, contentType: string,
  isCustom: boolean): KubeObject {
  const kind = contentType.split(';')[0]?.trim();
  if (kind === 'application/merge-patch+json') return mergePatch(old, body) as KubeObject;
  if (kind === 'application/json-patch+json') {
    if (!Array.isArray(body)) throw new Refusal(badRequest('a JSON patch is a list'));
    return jsonPatch(old, body as Operation[]);
  }
  if (kind === 'application/strategic-merge-patch+json' && !isCustom) {
    return strategic(old, body, '') as KubeObject;
  }
  throw new Refusal(failure(415, 'UnsupportedMediaType', 'the body of the request was in an '
    + `unknown format - accepted media types include: application/json-patch+json, `
    + 'application/merge-patch+json'));
}
