// The policy of a whole cluster, for the pods of all nodes at once: the nodes' cores share it out.

import type { PolicyChange } from '../../engine/model.ts';
import type { Entry } from '../../sync/objects.ts';
import { emptyChange } from '../../sync/policy/change.ts';
import { PolicyCompiler } from '../../sync/policy/compiler.ts';
import { CommandError, EXIT_FAILED } from '../exit.ts';

export interface CompileOptions {
  /** Reads the annotation that was NetworkPolicy before Kubernetes 1.7. */
  legacyAnnotation: boolean;
}

/** Compiles objects to the change from nothing. Throws a CommandError where the core cannot hold
 * what they say: a verdict that is stricter than the policies is none. */
export function compileCluster(
  entries: readonly Entry[], { legacyAnnotation }: CompileOptions,
): PolicyChange {
  const compiler = new PolicyCompiler({ local: null, legacyAnnotation });
  compiler.replace(entries);
  const change = compiler.commit();
  if (compiler.problems.length > 0) {
    throw new CommandError(EXIT_FAILED, compiler.problems.join('\n'));
  }
  return change ?? emptyChange();
}
