// The verbs about the policy modules of the running daemon: module list, add and remove. What needs
// no daemon is in module/: verify, new and build.

import { createHash } from 'node:crypto';
import * as v from 'valibot';
import {
  MODULE_PART_BYTES, ModuleReportSchema, type ModuleReport,
} from '../engine/model-modules.ts';
import { askAll, ask, withDaemon } from './client.ts';
import { CommandError, EXIT_FAILED } from './exit.ts';
import { readComponent, readConfig } from './module/file.ts';
import { settingsOf, type SettingOptions } from './module/settings.ts';
import type { ShowOptions } from './show.ts';
import { bytesText, print } from './table.ts';

export interface AddOptions extends ShowOptions, SettingOptions {}

/** Compiling a component takes a process of its own up to half a minute. */
const ADD_TIMEOUT_MS = 60_000;
const SHORT_HASH = 12;
const HEADERS = [
  'NAME', 'VERSION', 'SHA256', 'PATH', 'ORDER', 'EVALS', 'FAULTS', 'MEMORY', 'STATE',
];

export async function listModules({ runtimeDirectory, output }: ShowOptions): Promise<void> {
  const modules = await askAll(runtimeDirectory, 'module.list', ModuleReportSchema);
  print(output, modules, HEADERS, () => modules.map(row));
}

/** Hands a component to the daemon, in parts that fit its frames, and prints how it is there. */
export async function addModule(file: string, options: AddOptions): Promise<void> {
  const settings = settingsOf('module add', options);
  const config = await readConfig('module add', settings.config);
  const bytes = await readComponent('module add', file);
  const { name, order, failure, mayAllow, perPacket, allow, memoryCapBytes } = settings;
  const report = await named(`module add ${file}`, withDaemon(options.runtimeDirectory, async (
    connection,
  ) => {
    for (let at = 0; at < bytes.length; at += MODULE_PART_BYTES) {
      const part = { bytes: bytes.subarray(at, at + MODULE_PART_BYTES) };
      await connection.request('module.part', part, v.unknown());
    }
    return connection.request('module.add', {
      sha256: createHash('sha256').update(bytes).digest('hex'),
      name, order, config, failure, mayAllow, perPacket, allow, memoryCapBytes,
    }, ModuleReportSchema);
  }, { timeoutMs: ADD_TIMEOUT_MS }));
  print(options.output, report, HEADERS, () => [row(report)]);
}

export async function removeModule(
  name: string, { runtimeDirectory, output }: ShowOptions,
): Promise<void> {
  const report = await named(`module remove ${name}`,
    ask(runtimeDirectory, 'module.remove', { name }, ModuleReportSchema));
  print(output, report, HEADERS, () => [row(report)]);
}

/** What a daemon refuses, with what was asked of it in front. */
async function named<T>(operation: string, asked: Promise<T>): Promise<T> {
  try {
    return await asked;
  } catch (error) {
    if (!(error instanceof CommandError) || error.code !== EXIT_FAILED) throw error;
    throw new CommandError(error.code, `${operation}: ${error.message}`);
  }
}

function row(report: ModuleReport): string[] {
  const { name, version, sha256, path, order, evaluations, faults, memoryBytes } = report;
  return [
    name,
    version,
    sha256.slice(0, SHORT_HASH),
    path,
    String(order),
    String(sum(evaluations)),
    String(sum(faults)),
    bytesText(memoryBytes),
    report.reason === null ? report.state : `${report.state} (${report.reason})`,
  ];
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}
