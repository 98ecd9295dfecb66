// Kubernetes objects from files, all or nothing, and the addresses they give to pods and nodes.

import { readFile } from 'node:fs/promises';
import type { Entry } from '../../sync/objects.ts';
import { readObjects } from '../../sync/read.ts';
import { listFiles } from '../../sync/watch.ts';
import { CommandError, EXIT_USAGE } from '../exit.ts';
import { AddressBook, type ClusterPod } from './ends.ts';

const PROBLEM_LIMIT = 10;

/** Reads files and folders. Throws a CommandError that names file and field of what an API server
 * would refuse; then nothing is answered. */
export async function loadObjects(paths: readonly string[]): Promise<Entry[]> {
  const entries: Entry[] = [];
  const problems: string[] = [];
  for (const path of paths) {
    for (const file of await filesOf(path)) {
      const content = readObjects(file, await readText(file));
      entries.push(...content.entries);
      problems.push(...content.problems);
    }
  }
  problems.push(...findDuplicates(entries));
  if (problems.length > 0) throw new CommandError(EXIT_USAGE, shorten(problems).join('\n'));
  return entries;
}

/** Reads a file as text. Throws a CommandError that names it. */
export async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new CommandError(EXIT_USAGE, `read ${file}: ${code}`);
  }
}

/** Whose each address is. */
export function addressBook(entries: readonly Entry[]): AddressBook {
  const nodes = entries.filter((entry) => entry.kind === 'Node')
    .map(({ key, addresses }) => ({ name: key, addresses }));
  const pods = entries.filter((entry) => entry.kind === 'Pod').map((entry): ClusterPod => ({
    key: entry.key,
    namespace: entry.pod.namespace,
    name: entry.pod.name,
    uid: entry.pod.uid,
    nodeName: entry.nodeName,
    addresses: entry.pod.addresses,
    isHostNetwork: !entry.hasNetwork && !entry.isFinished,
    isFinished: entry.isFinished,
    isRunning: entry.isRunning,
    created: entry.created,
  }));
  return new AddressBook(pods, nodes);
}

async function filesOf(path: string): Promise<string[]> {
  try {
    return await listFiles(path);
  } catch (error) {
    throw new CommandError(EXIT_USAGE, error instanceof Error ? error.message : String(error));
  }
}

function findDuplicates(entries: readonly Entry[]): string[] {
  const seen = new Map<string, Entry>();
  const problems: string[] = [];
  for (const entry of entries) {
    const id = `${entry.kind} ${entry.key}`;
    const first = seen.get(id);
    if (first === undefined) seen.set(id, entry);
    else problems.push(`${entry.place}: ${id}: metadata.name: stands at ${first.place} too`);
  }
  return problems;
}

function shorten(problems: readonly string[]): string[] {
  const left = problems.length - PROBLEM_LIMIT;
  return left <= 0 ? [...problems] : [...problems.slice(0, PROBLEM_LIMIT), `and ${left} more`];
}
