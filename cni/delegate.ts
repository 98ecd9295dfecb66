// Another IPAM plugin, where the configuration names one: CNI specification, "Plugin Delegation".

import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { CODE, CniError } from './errors.ts';
import type { Request, Verb } from './request.ts';
import { parseResult, type Result } from './result.ts';

const TIMEOUT_MS = 30_000;
/** Bytes of an answer. */
const OUTPUT_LIMIT = 1024 * 1024;

/** Calls the IPAM plugin with the verb, our configuration and our variables. Returns its result, an
 * empty one for the verbs without. Throws CniError, the plugin's own where it gives one. */
export async function delegate(request: Request, verb: Verb): Promise<Result> {
  const { type } = request.config.ipam;
  const program = findPlugin(type, request.environment['CNI_PATH'] ?? '');
  const { status, output } = await run(program, request, verb);
  if (status !== 0) throw failureOf(type, status, output);
  return parseResult(verb === 'ADD' ? parse(type, output) : {}, `result of ${type}`);
}

function findPlugin(type: string, path: string): string {
  if (type.includes('/')) {
    throw new CniError(CODE.invalidConfig, `ipam.type: ${JSON.stringify(type)} is not a name`);
  }
  for (const folder of path.split(':').filter(Boolean)) {
    try {
      accessSync(join(folder, type), constants.X_OK);
      return join(folder, type);
    } catch {
      // It is not in this one.
    }
  }
  throw new CniError(CODE.invalidConfig, `ipam.type: there is no plugin ${type} in CNI_PATH`, path);
}

async function run(
  program: string, { environment, text }: Request, verb: Verb,
): Promise<{ status: number; output: string }> {
  // Loaded here, since most calls have nobody to delegate to.
  const { spawn } = await import('node:child_process');
  return new Promise((resolve, reject) => {
    const child = spawn(program, [], {
      env: { ...environment, CNI_COMMAND: verb }, timeout: TIMEOUT_MS, killSignal: 'SIGKILL',
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      if (output.length > OUTPUT_LIMIT) child.kill('SIGKILL');
    });
    child.on('error', (error) => reject(new CniError(CODE.io, `${program}: ${error.message}`)));
    child.on('close', (status) => resolve({ status: status ?? -1, output }));
    child.stdin.on('error', () => {});
    child.stdin.end(text);
  });
}

function parse(type: string, output: string): unknown {
  try {
    return JSON.parse(output);
  } catch {
    throw new CniError(CODE.notDecoded, `${type} gave no result`, output.slice(0, 300));
  }
}

function failureOf(type: string, status: number, output: string): CniError {
  const unclear = new CniError(
    CODE.io, `${type} ended with status ${status}`, output.slice(0, 300));
  try {
    const { code, msg, details } = JSON.parse(output) as Record<string, unknown>;
    if (typeof code !== 'number' || typeof msg !== 'string') return unclear;
    return new CniError(code, `${type}: ${msg}`, typeof details === 'string' ? details : '');
  } catch {
    return unclear;
  }
}
