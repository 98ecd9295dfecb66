// Label selectors: metav1.LabelSelector, checked, in one canonical form, and matched.

import * as v from 'valibot';
import {
  LabelsSchema, compareText, isLabelKey, isLabelValue, labelValue, maybe, unknownFields,
} from '../fields.ts';
import type { Labels, Path, Refuse } from '../fields.ts';
import { intern } from '../intern.ts';

type Operator = 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';

interface Requirement {
  key: string;
  operator: Operator;
  /** Sorted, each once. */
  values: readonly string[];
}

/** All of these must hold; none means that everything matches. Sorted, so that selectors that ask
 * the same in another order have the same text. */
export type Selector = readonly Requirement[];

export const EVERYTHING: Selector = [];

/** The label that the control plane sets on each namespace. */
export const NAMESPACE_NAME = 'kubernetes.io/metadata.name';

const OPERATORS = ['In', 'NotIn', 'Exists', 'DoesNotExist'] as const;

export const SelectorSchema = v.looseObject({
  matchLabels: maybe(LabelsSchema),
  matchExpressions: maybe(v.array(v.looseObject({
    key: v.string(),
    operator: v.picklist(OPERATORS, 'not one of In, NotIn, Exists, DoesNotExist'),
    values: maybe(v.array(v.string())),
  }))),
});
type SelectorObject = v.InferOutput<typeof SelectorSchema>;
type RequirementObject = NonNullable<SelectorObject['matchExpressions']>[number];

/** The selector in its canonical form; undefined asks for nothing. Tells what is wrong with it as
 * the API server does: values where an operator takes none, none where it needs some. */
export function readSelector(
  object: SelectorObject | undefined, path: Path, refuse: Refuse,
): Selector {
  const requirements: Requirement[] = [];
  const labels = object?.matchLabels ?? [];
  for (let at = 0; at < labels.length; at += 2) {
    requirements.push({ key: labels[at] ?? '', operator: 'In', values: [labels[at + 1] ?? ''] });
  }
  for (const [index, item] of (object?.matchExpressions ?? []).entries()) {
    const { key, operator, values = [] } = item;
    checkRequirement(item, [...path, 'matchExpressions', index], refuse);
    requirements.push({ key, operator, values: [...new Set(values)].sort(compareText) });
  }
  const texts = new Map(requirements.map((item) => [JSON.stringify(item), item]));
  return [...texts].sort(([a], [b]) => compareText(a, b)).map(([, item]) => item);
}

function checkRequirement(
  { key, operator, values = [] }: RequirementObject, path: Path, refuse: Refuse,
): void {
  if (!isLabelKey(key)) refuse([...path, 'key'], 'not a label key');
  const needsValues = operator === 'In' || operator === 'NotIn';
  if (needsValues && values.length === 0) {
    refuse([...path, 'values'], `must be given when the operator is ${operator}`);
  }
  if (!needsValues && values.length > 0) {
    refuse([...path, 'values'], `must not be given when the operator is ${operator}`);
  }
  for (const [index, value] of values.entries()) {
    if (!isLabelValue(value)) refuse([...path, 'values', index], 'not a label value');
  }
}

/** True where the selector has a field that we do not know, so that we cannot tell its meaning. */
export function isForeign(object: SelectorObject | undefined): boolean {
  if (object === undefined) return false;
  return unknownFields(object, ['matchLabels', 'matchExpressions']).length > 0
    || (object.matchExpressions ?? []).some((item) =>
      unknownFields(item, ['key', 'operator', 'values']).length > 0);
}

/** The selector of one namespace by its name. */
export function namespaceNamed(name: string): Selector {
  return [{ key: NAMESPACE_NAME, operator: 'In', values: [name] }];
}

/** `NotIn` holds where the key is missing, as in apimachinery's labels.Requirement. */
export function matches(selector: Selector, labels: Labels): boolean {
  for (const { key, operator, values } of selector) {
    const value = labelValue(labels, key);
    switch (operator) {
      case 'In': if (value === undefined || !values.includes(value)) return false; break;
      case 'NotIn': if (value !== undefined && values.includes(value)) return false; break;
      case 'Exists': if (value === undefined) return false; break;
      case 'DoesNotExist': if (value !== undefined) return false; break;
    }
  }
  return true;
}

/** The handle of everything. */
export const ANY = '';

/** Where a selector is found: whatever it matches has just one of these among its handles. */
export function selectorHandles(selector: Selector): string[] {
  let best: readonly string[] | null = null;
  let handles = [ANY];
  for (const { key, operator, values } of selector) {
    if (operator === 'In' && (best === null || values.length < best.length)) {
      best = values;
      handles = values.map((value) => `${key}\0${value}`);
    }
    if (operator === 'Exists' && handles[0] === ANY) handles = [key];
  }
  return handles;
}

/** Every handle that a selector of these labels may have been put under. */
export function labelHandles(labels: Labels): string[] {
  const handles = [ANY];
  for (let at = 0; at < labels.length; at += 2) {
    handles.push(labels[at] ?? '', intern([labels[at], labels[at + 1]].join('\0')));
  }
  return handles;
}
