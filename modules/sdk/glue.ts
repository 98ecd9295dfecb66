// The canonical ABI of the component model for modules in AssemblyScript: what crosses the border
// between host and module, as numbers in linear memory (component-model, CanonicalABI.md). Strings
// are UTF-8; what the host passes in memory is ours to free.

import { setFlow } from './flow';
import { Endpoint, Level, log } from './module';

/** Record `label`: two strings. */
const LABEL_SIZE = 16;
/** Record `endpoint`: id, namespace, pod, labels. */
const ENDPOINT_SIZE = 28;
const ENDPOINT_NAMESPACE = 4;
const ENDPOINT_POD = 12;
const ENDPOINT_LABELS = 20;
/** Record `module-info`: name, version, stateful. */
const INFO_SIZE = 20;
const INFO_VERSION = 8;
const INFO_STATEFUL = 16;
/** `result<_, string>`: a byte that says which, then the string. */
const RESULT_SIZE = 12;
const RESULT_TEXT = 4;
/** The parameters of `inspect`, which are too many to be passed otherwise: a flow, an offset, a
 * list. */
const INSPECT_OFFSET = 48;
const INSPECT_BYTES = 52;

/** Memory for what the host passes. */
export function realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  return old == 0 ? heap.alloc(size) : heap.realloc(old, size);
}

function lengthAt(at: usize): usize {
  return load<u32>(at + sizeof<usize>());
}

/** Takes a string that the host passed: address and length at `at`. */
function takeString(at: usize): string {
  return takeText(load<usize>(at), lengthAt(at));
}

/** Takes a text that the host passed. */
export function takeText(text: usize, length: usize): string {
  const taken = String.UTF8.decodeUnsafe(text, length);
  if (length > 0) heap.free(text);
  return taken;
}

/** Writes a string where the host reads it: address and length at `at`. */
function giveString(at: usize, text: string): void {
  const length = String.UTF8.byteLength(text);
  const bytes = heap.alloc(length);
  String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, bytes);
  store<usize>(at, bytes);
  store<u32>(at + sizeof<usize>(), length);
}

/** Answers `describe`. */
export function giveInfo(name: string, version: string, stateful: bool): usize {
  const info = heap.alloc(INFO_SIZE);
  giveString(info, name);
  giveString(info + INFO_VERSION, version);
  store<u8>(info + INFO_STATEFUL, stateful);
  return info;
}

/** Frees what giveInfo() gave. */
export function dropInfo(info: usize): void {
  heap.free(load<usize>(info));
  heap.free(load<usize>(info + INFO_VERSION));
  heap.free(info);
}

/** Answers `configure`: what is wrong, or an empty string. */
export function giveProblem(problem: string): usize {
  const answer = heap.alloc(RESULT_SIZE);
  store<u8>(answer, problem.length > 0);
  giveString(answer + RESULT_TEXT, problem);
  return answer;
}

/** Frees what giveProblem() gave. */
export function dropProblem(answer: usize): void {
  heap.free(load<usize>(answer + RESULT_TEXT));
  heap.free(answer);
}

/** Takes the list of pods that the host passed. */
export function takeEndpoints(list: usize, count: i32): Endpoint[] {
  const endpoints = new Array<Endpoint>(0);
  for (let at = list, end = list + (count * ENDPOINT_SIZE); at < end; at += ENDPOINT_SIZE) {
    const labels = new Map<string, string>();
    takeLabels(load<usize>(at + ENDPOINT_LABELS), lengthAt(at + ENDPOINT_LABELS), labels);
    const namespace = takeString(at + ENDPOINT_NAMESPACE);
    const pod = takeString(at + ENDPOINT_POD);
    endpoints.push(new Endpoint(load<u32>(at), namespace, pod, labels));
  }
  if (count > 0) heap.free(list);
  return endpoints;
}

function takeLabels(list: usize, count: usize, labels: Map<string, string>): void {
  for (let at = list, end = list + (count * LABEL_SIZE); at < end; at += LABEL_SIZE) {
    labels.set(takeString(at), takeString(at + (LABEL_SIZE / 2)));
  }
  if (count > 0) heap.free(list);
}

/** Fills the flow from the parameters of `inspect`, which begin with it. */
export function loadFlow(from: usize): void {
  setFlow(
    load<u8>(from), load<u8>(from, 1), load<u8>(from, 2), load<u8>(from, 3),
    load<u16>(from, 4), load<u16>(from, 6), load<u32>(from, 8), load<u32>(from, 12),
    load<u32>(from, 16), load<u32>(from, 20), load<u32>(from, 24), load<u32>(from, 28),
    load<u32>(from, 32), load<u32>(from, 36), load<u32>(from, 40), load<u32>(from, 44));
}

/** The offset among the parameters of `inspect`. */
export function inspectOffset(from: usize): u32 {
  return load<u32>(from, INSPECT_OFFSET);
}

/** Takes the payload, and with it the parameters of `inspect`. */
export function takePayload(from: usize): Uint8Array {
  const length = <i32>lengthAt(from + INSPECT_BYTES);
  const bytes = load<usize>(from + INSPECT_BYTES);
  const payload = new Uint8Array(length);
  memory.copy(payload.dataStart, bytes, length);
  if (length > 0) heap.free(bytes);
  heap.free(from);
  return payload;
}

/** Takes the place of AssemblyScript's abort: says why in the log, and traps. */
export function onAbort(text: string | null, file: string | null, line: u32, column: u32): void {
  const where = `${file === null ? 'module' : file}:${line}:${column}`;
  log(Level.Error, `${where}: ${text === null ? 'abort' : text}`);
  unreachable();
}
