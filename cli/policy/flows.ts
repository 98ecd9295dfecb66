// Flows and expectations as files: JSON (or YAML), each fault with its file, line and field.

import * as v from 'valibot';
import { LineCounter, parseAllDocuments, parseDocument } from 'yaml';
import { isAddress } from '../../engine/address.ts';
import { fieldPath, issuePath, issueReason } from '../../engine/shape.ts';
import { documentLine } from '../../sync/json-lines.ts';
import { CommandError, EXIT_USAGE } from '../exit.ts';

/** `namespace/name`; the namespace may be left out for `default`. */
const POD = /^([a-z0-9]([a-z0-9-]*[a-z0-9])?\/)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/;
const PROBLEM_LIMIT = 10;

const EndSchema = v.pipe(
  v.object({
    pod: v.optional(v.pipe(v.string(), v.regex(POD, 'not namespace/name'))),
    ip: v.optional(v.pipe(v.string(), v.check(isAddress, 'not an IP address'))),
    node: v.optional(v.pipe(v.string(), v.minLength(1, 'empty'))),
  }),
  v.check(({ pod, ip, node }) =>
    [pod, ip, node].filter((value) => value !== undefined).length === 1,
  'needs exactly one of pod, ip and node'),
);
/** One end of a flow: `{"pod":"namespace/name"}`, `{"ip":"…"}` or `{"node":"name"}`. */
export type End = v.InferOutput<typeof EndSchema>;

const Port = v.pipe(v.number(), v.integer('not a port'), v.minValue(0, 'not a port'),
  v.maxValue(65535, 'not a port'));

export const FlowSchema = v.pipe(
  v.object({
    id: v.string(),
    src: EndSchema,
    dst: EndSchema,
    protocol: v.picklist(['TCP', 'UDP', 'SCTP', 'ICMP'], 'not TCP, UDP, SCTP or ICMP'),
    port: v.nullish(Port),
    family: v.nullish(v.picklist(['IPv4', 'IPv6'], 'not IPv4 or IPv6')),
  }),
  v.forward(v.check(({ protocol, port }) => protocol === 'ICMP' || (port ?? 0) > 0,
    'not a port from 1 to 65535'), ['port']),
);
export type Flow = v.InferOutput<typeof FlowSchema>;

const ExpectedSchema = v.object({
  verdict: v.optional(v.picklist(['allow', 'deny'], 'not allow or deny')),
  egress: v.optional(v.picklist(['allow', 'deny'], 'not allow or deny')),
  ingress: v.optional(v.picklist(['allow', 'deny'], 'not allow or deny')),
  policy: v.optional(v.nullable(v.string())),
});
/** What a flow's result is expected to say; fields that are left out are not compared. */
export type Expected = v.InferOutput<typeof ExpectedSchema>;

const VerdictsSchema = v.record(v.string(), v.union(
  [v.picklist(['allow', 'deny']), ExpectedSchema], 'not allow or deny'));
const ResultsSchema = v.object({
  results: v.array(v.object({ ...ExpectedSchema.entries, id: v.string() })),
});

/** Reads `{"flows":[…]}`. Throws a CommandError that names the first faults. */
export function readFlows(file: string, text: string): Flow[] {
  const value = parseText(file, text);
  const header = v.safeParse(v.object({ flows: v.array(v.unknown()) }), value);
  const places = new Places(file, text);
  if (!header.success) throw fault(describe(places, header.issues, []));
  const problems: string[] = [];
  const flows: Flow[] = [];
  const ids = new Map<string, number>();
  for (const [index, item] of header.output.flows.entries()) {
    const parsed = v.safeParse(FlowSchema, item);
    if (!parsed.success) {
      problems.push(...describe(places, parsed.issues, ['flows', index]));
      continue;
    }
    const { id } = parsed.output;
    const first = ids.get(id);
    if (first === undefined) ids.set(id, index);
    else {
      const place = places.of(['flows', index, 'id']);
      problems.push(`${place}: flows[${index}].id: ${JSON.stringify(id)} is flows[${first}]'s`);
    }
    flows.push(parsed.output);
  }
  if (problems.length > 0) throw fault(problems);
  return flows;
}

/** Reads expectations: a map from id to verdict, alone or under `expect`, or results as `policy
 * test` prints them. */
export function readExpected(file: string, text: string): Map<string, Expected> {
  const value = parseText(file, text);
  const places = new Places(file, text);
  const results = v.safeParse(ResultsSchema, value);
  if (results.success) {
    return new Map(results.output.results.map(({ id, ...expected }) => [id, expected]));
  }
  if (isRecord(value) && 'results' in value) throw fault(describe(places, results.issues, []));
  const inner = isRecord(value) && isRecord(value['expect']);
  const verdicts = v.safeParse(VerdictsSchema, inner ? value['expect'] : value);
  if (!verdicts.success) throw fault(describe(places, verdicts.issues, inner ? ['expect'] : []));
  return new Map(Object.entries(verdicts.output).map(([id, expected]) =>
    [id, typeof expected === 'string' ? { verdict: expected } : expected]));
}

/** Reads `80/TCP`, `ICMP`, or `53` for TCP. */
export function parsePort(text: string): Pick<Flow, 'port' | 'protocol'> | null {
  if (/^icmp$/i.test(text)) return { protocol: 'ICMP', port: null };
  const [, number, name = 'TCP'] = /^(\d{1,5})(?:\/(\w+))?$/.exec(text) ?? [];
  const protocol = v.safeParse(v.picklist(['TCP', 'UDP', 'SCTP']), name.toUpperCase());
  const port = Number(number);
  if (!protocol.success || !(port >= 1 && port <= 65535)) return null;
  return { protocol: protocol.output, port };
}

/** Reads `namespace/name` for a pod, an address, or `node:NAME`. */
export function parseEnd(text: string): End | null {
  if (isAddress(text)) return { ip: text };
  const node = /^node:(.+)$/.exec(text)?.[1];
  if (node !== undefined) return { node };
  return text.includes('/') && POD.test(text) ? { pod: text } : null;
}

/** An end as it is written on the command line. */
export function endText({ pod, ip, node }: End): string {
  return pod ?? ip ?? `node:${node ?? ''}`;
}

/** JSON where it is JSON, which is fast; else YAML, whose parser knows lines. */
function parseText(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    const lines = new LineCounter();
    const documents = parseAllDocuments(text, { lineCounter: lines });
    const [document] = Array.isArray(documents) ? documents : [];
    const [error] = document?.errors ?? [];
    if (document === undefined) throw new CommandError(EXIT_USAGE, `${file}: empty`);
    if (error === undefined) return document.toJS() as unknown;
    const line = error.linePos?.[0].line ?? 1;
    const reason = (error.message.split('\n')[0] ?? '').replace(/ at line \d+, column \d+:?$/, '');
    throw new CommandError(EXIT_USAGE, `${file}:${line}: ${reason}`);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Where the fields of a file stand. The text is parsed for it only when first asked. */
export class Places {
  readonly #file: string;
  readonly #text: string;
  readonly #lines = new LineCounter();
  #document: ReturnType<typeof parseDocument> | null = null;

  constructor(file: string, text: string) {
    this.#file = file;
    this.#text = text;
  }

  /** `FILE:LINE` of a field, or of what should hold it. */
  of(path: readonly (string | number)[]): string {
    this.#document ??= parseDocument(this.#text, { lineCounter: this.#lines });
    return `${this.#file}:${documentLine(this.#document, this.#lines, path)}`;
  }
}

function describe(
  places: Places, issues: readonly v.BaseIssue<unknown>[], above: readonly (string | number)[],
): string[] {
  return issues.map((issue) => {
    const path = [...above, ...issuePath(issue)];
    const parts = [places.of(path), fieldPath(path), issueReason(issue)];
    return parts.filter((part) => part !== '').join(': ');
  });
}

/** One error for all faults of a file; the first ones are what somebody mends. */
export function fault(problems: readonly string[]): CommandError {
  const shown = problems.slice(0, PROBLEM_LIMIT);
  const rest = problems.length - shown.length;
  if (rest > 0) shown.push(`and ${rest} more`);
  return new CommandError(EXIT_USAGE, shown.join('\n'));
}
