// The pod's side of an attachment. Loaded only by the verbs that need system calls.

import type { InterfaceSetUp } from '../engine/model.ts';
import { SystemError } from '../ffi/errno.ts';
import { findDifference, moveInterface, setUpLoopback, withNamespace } from
  '../ffi/interface-setup.ts';
import { Links } from '../ffi/netlink.ts';
import { CODE, CniError } from './errors.ts';

/** Moves the interface that the daemon has made into the pod's namespace and sets it up there. */
export async function attachInterface(
  device: string, netns: string, setUp: InterfaceSetUp,
): Promise<void> {
  const links = new Links();
  try {
    await moveInterface(links, device, netns, setUp);
    await withNamespace(netns, setUpLoopback);
  } catch (error) {
    throw explain(netns, error);
  } finally {
    links.close();
  }
}

/** Throws CniError where the pod's interface is not what it must be. */
export async function checkInterface(netns: string, setUp: InterfaceSetUp): Promise<void> {
  const difference = await withNamespace(netns, (links) => findDifference(links, setUp))
    .catch((error: unknown) => Promise.reject(explain(netns, error)));
  if (difference !== null) throw new CniError(CODE.checkFailed, difference);
}

/** Removes a pod's interface, where namespace and interface still are. */
export async function removeInterface(netns: string, name: string): Promise<void> {
  try {
    await withNamespace(netns, (links) => links.removeLink(name));
  } catch (error) {
    const isGone = error instanceof SystemError
      && ['ENOENT', 'ENODEV', 'EINVAL'].includes(error.code);
    if (!isGone) throw error;
  }
}

function explain(netns: string, error: unknown): unknown {
  if (!(error instanceof SystemError) || error.object !== netns) return error;
  return new CniError(CODE.unknownContainer, `the network namespace ${netns}: ${error.code}`);
}
