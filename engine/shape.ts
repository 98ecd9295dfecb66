// Checks values from outside against valibot schemas and says, in one line, which field is wrong.

import * as v from 'valibot';

const MESSAGE_LIMIT = 300;

/** A value that does not have the shape it must have. `path` names the offending field. */
export class ShapeError extends Error {
  readonly path: string;

  constructor(what: string, path: string, reason: string) {
    super([what, path, reason].filter((part) => part !== '').join(': '));
    this.name = 'ShapeError';
    this.path = path;
  }
}

/** Returns the value as the schema's type. Throws ShapeError naming the first offending field;
 * `what` says in the message what was being read. */
export function parseShape<S extends v.GenericSchema>(
  schema: S, value: unknown, what: string,
): v.InferOutput<S> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new ShapeError(what, fieldPath(issuePath(issue)), issueReason(issue));
}

/** Why a value was refused, without its path, cut to a length fit for a log line. */
export function issueReason(issue: v.BaseIssue<unknown>): string {
  if (issue.expected === 'never') return 'there is no such field';
  return issue.received === 'undefined' ? 'missing' : issue.message.slice(0, MESSAGE_LIMIT);
}

/** The keys and indexes that lead to the offending field. */
export function issuePath(issue: v.BaseIssue<unknown>): (string | number)[] {
  return (issue.path ?? []).map(({ key }) => (typeof key === 'number' ? key : String(key)));
}

/** A path as text: `nodes[3].podCidrs[0]`, `metadata.annotations["a/b"]`. */
export function fieldPath(path: readonly (string | number)[]): string {
  return path.map(pathStep).join('').replace(/^\./, '').slice(0, MESSAGE_LIMIT);
}

function pathStep(key: string | number): string {
  if (typeof key === 'number') return `[${key}]`;
  return /^[A-Za-z_][A-Za-z0-9_]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
}
