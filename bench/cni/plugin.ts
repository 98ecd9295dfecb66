// A container runtime's part: calls plugins by environment and standard input, inside a node's
// namespace, one at a time, and takes the time from before the start to after the end.

import { spawn } from 'node:child_process';
import type { Namespace } from '../../ffi/netns.ts';

const TIMEOUT_MS = 30_000;

/** A plugin with its network configuration. */
export interface Plugin {
  program: string;
  /** CNI_PATH: where it looks for other plugins. */
  path: string;
  config: object;
}

/** What a call is about. */
export interface Call {
  verb: 'ADD' | 'DEL';
  container: string;
  netns: string;
  pod: string;
}

/** What a call has answered, and when it was begun and over, by performance.now(). */
export interface Called {
  result: Record<string, unknown>;
  beginMs: number;
  endMs: number;
}

/** The interface that a pod gets. */
export const INTERFACE = 'eth0';
/** The namespace of the pods. */
export const POD_NAMESPACE = 'bench';

/** Calls a plugin. Rejects with what it has printed where it fails. */
export async function callPlugin(node: Namespace, plugin: Plugin, call: Call): Promise<Called> {
  const { verb, container, netns, pod } = call;
  const env = {
    CNI_COMMAND: verb, CNI_CONTAINERID: container, CNI_NETNS: netns, CNI_IFNAME: INTERFACE,
    CNI_PATH: plugin.path,
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${POD_NAMESPACE};K8S_POD_NAME=${pod};`
      + `K8S_POD_UID=uid-${pod}`,
  };
  const text = JSON.stringify({ cniVersion: '1.0.0', name: 'bench', ...plugin.config });
  const { output, ...times } = await run(node, [plugin.program], env, text);
  return {
    ...times, result: output === '' ? {} : JSON.parse(output) as Record<string, unknown>,
  };
}

/** Runs a program to its good end. */
export function run(
  node: Namespace, [program = '', ...words]: string[], env: Record<string, string>, text: string,
): Promise<Omit<Called, 'result'> & { output: string }> {
  return new Promise((resolve, reject) => {
    const beginMs = performance.now();
    const child = node.run(() => spawn(program, words, {
      env, stdio: ['pipe', 'pipe', 'inherit'], timeout: TIMEOUT_MS, killSignal: 'SIGKILL',
    }));
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => { output += chunk.toString(); });
    child.stdin.on('error', () => {});
    child.stdin.end(text);
    child.on('error', reject);
    child.on('close', (status) => {
      const endMs = performance.now();
      if (status === 0) resolve({ beginMs, endMs, output });
      else reject(new Error(`${program} ended with ${String(status)}: ${output.slice(0, 400)}`));
    });
  });
}
