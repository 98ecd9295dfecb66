// Answers that say no: the Status objects of the API, in the words of a real server where a client
// might look at them.

import { qualifiedName } from './resources.ts';

export interface Cause {
  reason: string;
  message: string;
  field?: string;
}

export interface Status {
  kind: 'Status';
  apiVersion: 'v1';
  metadata: { continue?: string };
  status: 'Failure';
  message: string;
  reason?: string;
  details?: {
    name?: string; group?: string; kind?: string; causes?: Cause[]; retryAfterSeconds?: number;
  };
  code: number;
}

/** Thrown where a request is refused. */
export class Refusal extends Error {
  readonly status: Status;
  readonly delayMs: number;

  constructor(status: Status, delayMs = 0) {
    super(status.message);
    this.status = status;
    this.delayMs = delayMs;
  }
}

export function failure(code: number, reason: string, message: string,
  details?: Status['details']): Status {
  return {
    kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message,
    ...(reason === '' ? {} : { reason }), ...(details === undefined ? {} : { details }), code,
  };
}

export function badRequest(message: string): Status {
  return failure(400, 'BadRequest', message);
}

export function unauthorized(): Status {
  return failure(401, 'Unauthorized', 'Unauthorized');
}

/** What was asked for, in RBAC's terms. A path that is no resource has only `path`. */
export interface Attributes {
  verb: string;
  group: string;
  plural: string;
  subresource: string;
  namespace: string | null;
  name: string;
}

export function forbidden(user: string, asked: Attributes): Status {
  const { verb, group, namespace, name } = asked;
  const kind = asked.subresource === '' ? asked.plural : `${asked.plural}/${asked.subresource}`;
  const where = namespace === null ? 'at the cluster scope' : `in the namespace "${namespace}"`;
  const what = qualifiedName(asked) + (name === '' ? '' : ` "${name}"`);
  return failure(403, 'Forbidden', `${what} is forbidden: User "${user}" cannot ${verb} resource `
    + `"${kind}" in API group "${group}" ${where}`, {
    ...(name === '' ? {} : { name }), ...(group === '' ? {} : { group }), kind: asked.plural,
  });
}

export function forbiddenPath(user: string, verb: string, path: string): Status {
  return failure(403, 'Forbidden', `forbidden: User "${user}" cannot ${verb} path "${path}"`, {});
}

export function notFound(asked: { group: string; plural: string }, name: string): Status {
  const { group, plural } = asked;
  return failure(404, 'NotFound', `${qualifiedName(asked)} "${name}" not found`,
    { name, ...(group === '' ? {} : { group }), kind: plural });
}

export function noSuchResource(): Status {
  return failure(404, 'NotFound', 'the server could not find the requested resource', {});
}

export function initializing(): Status {
  return failure(429, 'TooManyRequests', 'storage is (re)initializing', { retryAfterSeconds: 1 });
}

export function tooOld(asked: number, floor: number): Status {
  return failure(410, 'Expired', `too old resource version: ${asked} (${floor})`);
}

export function tooOldList(): Status {
  return failure(410, 'Expired', 'The resourceVersion for the provided list is too old.');
}

/** The answer to an old `continue`, with a token that goes on at a newer, inconsistent state. */
export function tooOldContinue(token: string): Status {
  const status = failure(410, 'Expired', 'The provided continue parameter is too old to display a '
    + 'consistent list result. You can start a new list without the continue parameter, or use the '
    + 'continue token in this response to retrieve the remainder of the results. Continuing with '
    + 'the provided token results in an inconsistent list - objects that were created, modified, '
    + 'or deleted between the time the first chunk was returned and now may show up in the list.');
  return { ...status, metadata: { continue: token } };
}

export function tooLarge(asked: number, current: number): Status {
  return failure(504, 'Timeout',
    `Timeout: Too large resource version: ${asked}, current: ${current}`, {
      causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
      retryAfterSeconds: 1,
    });
}

export function noProgress(): Status {
  return failure(500, 'InternalError', 'a watch stream was requested by the client but the '
    + 'required storage feature RequestWatchProgress is disabled');
}

export function notANumber(text: string): Status {
  return failure(500, '', `resourceVersion: Invalid value: ${JSON.stringify(text)}: `
    + `strconv.ParseUint: parsing ${JSON.stringify(text)}: invalid syntax`);
}

/** An object or a query that breaks rules; each cause is a field and what is wrong with it. */
export function invalid(kind: string, group: string, name: string, causes: Cause[]): Status {
  const list = causes.map(({ field, message }) => `${field ?? ''}: ${message}`);
  const text = list.length === 1 ? list[0] : `[${list.join(', ')}]`;
  const title = group === '' ? kind : `${kind}.${group}`;
  return failure(422, 'Invalid', `${title} ${JSON.stringify(name)} is invalid: ${text}`,
    { ...(name === '' ? {} : { name }), group, kind, causes });
}
