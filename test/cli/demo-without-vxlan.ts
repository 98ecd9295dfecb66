// The demo on a machine whose kernel has no vxlan, as far as the demo can see.

import { demo } from '../../cli/demo.ts';
import { ERRNO, SystemError } from '../../ffi/errno.ts';

process.exitCode = await demo({
  output: process.argv[2] === 'json' ? 'json' : 'table',
  keep: false,
  setUpKernelNode: () => Promise.reject(
    new SystemError('link add vxlan', 'flannel.1', ERRNO.EOPNOTSUPP)),
}, new AbortController().signal);
