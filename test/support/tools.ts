// Programs that tests use as the other side. The runner brings them before it starts tests; a test
// that runs alone takes what is there.

import { findTool } from '../../scripts/tools.ts';

export { findFiles, findTool, GUEST_KERNEL, toolFolder, toolReason } from '../../scripts/tools.ts';

/** What stands in front of a command so that the kernel ends the program with this process. Each of
 * these becomes the next, so the process stays one. */
export function endsWithUs(): string[] {
  const setpriv = findTool('setpriv');
  return setpriv === null ? [] : [setpriv, '--pdeathsig', 'KILL'];
}
