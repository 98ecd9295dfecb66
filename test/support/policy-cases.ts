// The recorded cases of test/policy-cases/, in one form: objects, flows and the verdict of each.

import { readFileSync } from 'node:fs';
import type { TwinFlow } from '../reference/policy.ts';

export interface CaseFlow extends TwinFlow {
  id: string;
}

/** One state of a case's cluster. */
export interface CaseStep {
  objects: object[];
  flows: CaseFlow[];
  expect: Map<string, 'allow' | 'deny'>;
}

export interface PolicyCase {
  name: string;
  steps: CaseStep[];
}

type Labels = Record<string, string>;

interface RecordedStep {
  cluster?: { items: object[] };
  flows?: CaseFlow[];
  expect?: Record<string, 'allow' | 'deny'>;
  namespaces?: Record<string, Labels>;
  pods?: [namespace: string, name: string, ip: string, labels: Labels][];
  policies?: object[];
  table?: Record<string, string[]>;
}

const FOLDER = new URL('../../../test/policy-cases/', import.meta.url);

/** Reads the cases of one file. */
export function readCases(file: string): PolicyCase[] {
  const recorded = JSON.parse(readFileSync(new URL(file, FOLDER), 'utf8')) as {
    cases: { name: string; steps: RecordedStep[] }[];
  };
  return recorded.cases.map(({ name, steps }) => ({ name, steps: steps.map(readStep) }));
}

function readStep(step: RecordedStep): CaseStep {
  if (step.table !== undefined) return readTable(step, step.table);
  return {
    objects: step.cluster?.items ?? [],
    flows: step.flows ?? [],
    expect: new Map(Object.entries(step.expect ?? {})),
  };
}

/** A table has one row for each source pod and one character for each destination pod. */
function readTable(step: RecordedStep, table: Record<string, string[]>): CaseStep {
  const pods = step.pods ?? [];
  const flows: CaseFlow[] = [];
  const expect: CaseStep['expect'] = new Map();
  const names = pods.map(([namespace, name]) => `${namespace}/${name}`);
  for (const [service, rows] of Object.entries(table)) {
    const [protocol = '', port = ''] = service.split('/');
    for (const [from, row] of rows.entries()) {
      for (const [to, sign] of [...row].entries()) {
        if (sign === 'o') continue;
        const id = `${names[from]}>${names[to]}:${service}`;
        flows.push({
          id, src: { pod: names[from] ?? '' }, dst: { pod: names[to] ?? '' },
          protocol: protocol as TwinFlow['protocol'], port: Number(port),
        });
        expect.set(id, sign === 'X' ? 'deny' : 'allow');
      }
    }
  }
  return { objects: tableObjects(step), flows, expect };
}

function tableObjects({ namespaces = {}, pods = [], policies = [] }: RecordedStep): object[] {
  const ports = [80, 81].flatMap((port) => ['TCP', 'UDP', 'SCTP'].map((protocol) =>
    ({ name: `serve-${port}-${protocol.toLowerCase()}`, containerPort: port, protocol })));
  return [
    {
      apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' },
      status: { addresses: [{ type: 'InternalIP', address: '172.18.0.2' }] },
    },
    ...Object.entries(namespaces).map(([name, labels]) =>
      ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })),
    ...pods.map(([namespace, name, ip, labels]) => ({
      apiVersion: 'v1', kind: 'Pod', metadata: { namespace, name, labels },
      spec: { nodeName: 'n1', containers: ports.map((port) =>
        ({ name: `c-${port.name}`, ports: [port] })) },
      status: { phase: 'Running', podIP: ip, podIPs: [{ ip }] },
    })),
    ...policies,
  ];
}
