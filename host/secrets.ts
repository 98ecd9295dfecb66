// What may be shown of a configuration to somebody who is to help: all but secrets, which are known
// by the names of their settings.

const SECRET = /key|secret|token|password|credential/i;
/** What stands in the place of a secret that is set. */
export const LEFT_OUT = '(left out)';

/** A copy of a tree of settings without the values of secrets. */
export function withoutSecrets(tree: unknown): unknown {
  if (Array.isArray(tree)) return tree.map(withoutSecrets);
  if (typeof tree !== 'object' || tree === null) return tree;
  return Object.fromEntries(Object.entries(tree).map(([name, value]: [string, unknown]) => {
    const isSet = value !== '' && value !== null;
    return [name, SECRET.test(name) && isSet ? LEFT_OUT : withoutSecrets(value)];
  }));
}
