// Who is asking, and whether they may: tokens, client certificates, and RBAC's roles and bindings,
// which are objects of the store like all others.

import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import type { KubeObject } from './resources.ts';
import type { Attributes } from './status.ts';
import type { Store } from './store.ts';

export interface User {
  name: string;
  groups: string[];
}

/** One rule as a ClusterRole has it. */
export interface Rule {
  apiGroups: string[];
  resources: string[];
  verbs: string[];
  resourceNames?: string[];
}

export const ANONYMOUS: User = { name: 'system:anonymous', groups: ['system:unauthenticated'] };
/** Members may do anything, whatever the roles say. */
export const MASTERS = 'system:masters';

interface Subject {
  kind: string;
  name: string;
  namespace?: string;
}

/** The user of a request: a bearer token, else a certificate of the test authority, else nobody.
 * Null for a token that is not known. */
export function userOf(request: IncomingMessage, tokens: ReadonlyMap<string, User>): User | null {
  const { authorization } = request.headers;
  if (authorization?.startsWith('Bearer ') === true) {
    return tokens.get(authorization.slice('Bearer '.length)) ?? null;
  }
  const { socket } = request;
  if (socket instanceof TLSSocket && socket.authorized) {
    const subject = socket.getPeerCertificate().subject;
    const name = subject?.CN;
    if (typeof name === 'string') return { name, groups: [subject?.O ?? []].flat() };
  }
  return ANONYMOUS;
}

function isSubject(subject: Subject, user: User): boolean {
  if (subject.kind === 'Group') return user.groups.includes(subject.name);
  if (subject.kind === 'ServiceAccount') {
    return user.name === `system:serviceaccount:${subject.namespace ?? ''}:${subject.name}`;
  }
  return subject.name === user.name;
}

function allows(rule: Rule, asked: Attributes): boolean {
  const resource = asked.subresource === '' ? asked.plural
    : `${asked.plural}/${asked.subresource}`;
  const has = (list: readonly string[], word: string): boolean =>
    list.includes('*') || list.includes(word);
  if (!has(rule.apiGroups, asked.group) || !has(rule.resources, resource)) return false;
  if (!has(rule.verbs, asked.verb)) return false;
  return rule.resourceNames === undefined || rule.resourceNames.includes(asked.name);
}

function rulesOf(store: Store, binding: KubeObject): Rule[] {
  const role = binding['roleRef'] as { kind: string; name: string } | undefined;
  if (role === undefined) return [];
  const key = role.kind === 'Role' ? `${binding.metadata.namespace ?? ''}/${role.name}`
    : role.name;
  const found = store.collection(role.kind === 'Role' ? 'roles' : 'clusterroles').get(key);
  return (found?.['rules'] as Rule[] | undefined) ?? [];
}

/** True if the roles of the store allow a request. */
export function isAllowed(store: Store, user: User, asked: Attributes): boolean {
  if (user.groups.includes(MASTERS)) return true;
  const bindings = [...store.collection('clusterrolebindings').objects().values()];
  for (const binding of store.collection('rolebindings').objects().values()) {
    if (binding.metadata.namespace === asked.namespace) bindings.push(binding);
  }
  return bindings.some((binding) => {
    const subjects = (binding['subjects'] as Subject[] | undefined) ?? [];
    return subjects.some((subject) => isSubject(subject, user))
      && rulesOf(store, binding).some((rule) => allows(rule, asked));
  });
}
