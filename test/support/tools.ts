// Programs that tests use as the other side. The runner brings them before it starts tests; a test
// that runs alone takes what is there.

export { findTool, toolReason } from '../../scripts/tools.ts';
