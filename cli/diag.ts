// `culvert diag`: one archive of all that says how the daemon is, for whoever is asked for help.
// What cannot be had is said in its place, and the rest is there all the same.

import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { gzipSync } from 'node:zlib';
import * as v from 'valibot';
import {
  EndpointReportSchema, PeerReportSchema, RouteReportSchema, RuleNameSchema, ServiceSummarySchema,
  StatusReportSchema, VerdictReportSchema,
} from '../engine/model.ts';
import { ModuleReportSchema } from '../engine/model-modules.ts';
import { ask, askAll } from './client.ts';
import { CommandError, EXIT_FAILED } from './exit.ts';
import { archive, type ArchiveFile } from './archive.ts';
import { VERSION } from './version.ts';

export interface DiagOptions {
  runtimeDirectory: string;
  write?: string;
}

/** Lines of the journal, and how long programs may take. */
const LOG_LINES = 5000;
const PROGRAM_LIMIT_MS = 15_000;

/** Files of /proc that say what kind of machine it is. */
const MACHINE_FILES = ['/proc/meminfo', '/proc/loadavg', '/proc/net/dev', '/etc/os-release'];
const PROGRAMS: readonly (readonly [name: string, ...command: string[]])[] = [
  ['journal.txt', 'journalctl', '--no-pager', '-o', 'short-iso', '-n', String(LOG_LINES),
    '-u', 'culvert', '-u', 'culvert-sync'],
  ['unit.txt', 'systemctl', 'status', '--no-pager', 'culvert', 'culvert-sync'],
  ['links.txt', 'ip', '-details', 'link'],
  ['addresses.txt', 'ip', 'address'],
  ['routes-kernel.txt', 'ip', 'route', 'show', 'table', 'all'],
];

export async function diag({ runtimeDirectory, write }: DiagOptions): Promise<void> {
  const list = <S extends v.GenericSchema>(name: string, entry: S): Promise<unknown> =>
    askAll(runtimeDirectory, name, entry);
  const parts: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['status.json', () => ask(runtimeDirectory, 'status', null, StatusReportSchema)],
    ['config.json', () => ask(runtimeDirectory, 'config', null, v.unknown())],
    ['metrics.txt', async () =>
      `${(await askAll(runtimeDirectory, 'metrics', v.string())).join('\n')}\n`],
    ['peers.json', () => list('peer.list', PeerReportSchema)],
    ['routes.json', () => list('route.list', RouteReportSchema)],
    ['endpoints.json', () => list('endpoint.list', EndpointReportSchema)],
    ['policy.json', () => list('policy.list', RuleNameSchema)],
    ['services.json', () => list('service.list', ServiceSummarySchema)],
    ['modules.json', () => list('module.list', ModuleReportSchema)],
    ['verdicts.json', () => list('verdict.recent', VerdictReportSchema)],
  ];
  const files: ArchiveFile[] = [{ name: 'about.txt', text: about() }];
  for (const [name, read] of parts) files.push({ name, text: await textOf(read) });
  for (const [name, ...command] of PROGRAMS) files.push({ name, text: outputOf(command) });
  for (const path of MACHINE_FILES) {
    files.push({ name: `machine${path.replaceAll('/', '-')}.txt`, text: fileText(path) });
  }
  const path = write ?? `culvert-diag-${new Date().toISOString().replace(/[:.]/g, '-')}.tar.gz`;
  try {
    writeFileSync(path, gzipSync(archive('culvert-diag', files)), { mode: 0o600 });
  } catch (error) {
    throw new CommandError(EXIT_FAILED, `diag: ${(error as Error).message}`);
  }
  process.stdout.write(`${path}\n`);
}

function about(): string {
  return `culvert ${VERSION}\nNode.js ${process.version} ${process.arch}\nLinux ${release()}\n`
    + `${new Date().toISOString()}\n`;
}

async function textOf(read: () => Promise<unknown>): Promise<string> {
  try {
    const value = await read();
    return typeof value === 'string' ? value : `${JSON.stringify(value, null, 2)}\n`;
  } catch (error) {
    return `not to be had: ${(error as Error).message}\n`;
  }
}

function outputOf([program = '', ...words]: readonly string[]): string {
  const { stdout, stderr, error } = spawnSync(program, words, {
    encoding: 'utf8', timeout: PROGRAM_LIMIT_MS, maxBuffer: 64 * 1024 * 1024,
  });
  return error === undefined ? `${stdout}${stderr}` : `not to be had: ${error.message}\n`;
}

function fileText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    return `not to be had: ${(error as Error).message}\n`;
  }
}
