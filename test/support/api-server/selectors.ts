// Label and field selectors of list and watch requests, as the API reads them.

import type { Fields, KubeObject } from './resources.ts';
import { Refusal, badRequest } from './status.ts';

export type Matcher = (object: KubeObject) => boolean;

const SET_TERM = /^\s*([^\s!=(),]+)\s+(in|notin)\s*\(([^)]*)\)\s*$/;
const EQUAL_TERM = /^\s*([^\s!=]+)\s*(==|=|!=)\s*(\S*)\s*$/;

/** Splits at commas that are outside parentheses. */
function terms(text: string): string[] {
  return text.split(/,(?![^(]*\))/).filter((term) => term.trim() !== '');
}

function labelTerm(term: string): (labels: Record<string, string>) => boolean {
  const set = SET_TERM.exec(term);
  if (set !== null) {
    const [, key = '', operator, list = ''] = set;
    const values = list.split(',').map((value) => value.trim());
    // A label that is missing is not in any set.
    if (operator === 'in') return (labels) => values.includes(labels[key] ?? '\0');
    return (labels) => !values.includes(labels[key] ?? '\0');
  }
  const equal = EQUAL_TERM.exec(term);
  if (equal !== null) {
    const [, key = '', operator, value = ''] = equal;
    if (operator === '!=') return (labels) => labels[key] !== value;
    return (labels) => labels[key] === value;
  }
  const name = term.trim();
  if (name.startsWith('!')) return (labels) => !(name.slice(1).trim() in labels);
  return (labels) => name in labels;
}

function fieldValue(object: KubeObject, path: string): string {
  let value: unknown = object;
  for (const part of path.split('.')) value = (value as Fields | undefined)?.[part];
  return typeof value === 'string' || typeof value === 'boolean' ? String(value) : '';
}

function fieldTerm(term: string, plural: string): Matcher {
  const [, path = '', operator, value = ''] = EQUAL_TERM.exec(term) ?? [];
  const known = path === 'metadata.name' || path === 'metadata.namespace'
    || (plural === 'pods' && ['spec.nodeName', 'status.phase', 'spec.hostNetwork'].includes(path));
  if (!known) {
    const label = path === '' ? term : path;
    throw new Refusal(badRequest(`field label not supported: ${label}`));
  }
  return (object) => (fieldValue(object, path) === value) !== (operator === '!=');
}

/** One matcher for everything a query asks of an object. Null if it asks nothing. */
export function matcherOf(query: URLSearchParams, namespace: string | null, plural: string)
  : Matcher | null {
  const labels = terms(query.get('labelSelector') ?? '').map(labelTerm);
  const all = terms(query.get('fieldSelector') ?? '').map((term) => fieldTerm(term, plural));
  if (labels.length > 0) {
    all.push(({ metadata }) => labels.every((matches) => matches(metadata.labels ?? {})));
  }
  if (namespace !== null) all.push(({ metadata }) => metadata.namespace === namespace);
  if (all.length === 0) return null;
  return (object) => all.every((matches) => matches(object));
}
