// Loaded before a program: what it starts as a program of its own Node.js runs by the starter that
// CULVERT_TEST_STARTER names, since the kernel knows nothing of an emulated processor.

import children from 'node:child_process';
import { syncBuiltinESMExports } from 'node:module';

const { spawn } = children;
const starter = process.env['CULVERT_TEST_STARTER'] ?? process.execPath;

Object.assign(children, {
  spawn: (program: string, ...rest: [string[], children.SpawnOptions]) =>
    spawn(program === process.execPath ? starter : program, ...rest),
});
syncBuiltinESMExports();
