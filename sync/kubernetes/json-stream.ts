// Bytes as they arrive, one JSON object at a time: the events of a watch, or the items of a list
// without ever holding the list.
//
// A scanner looks for brackets outside of strings and knows from them where an object begins and
// ends; JSON.parse does the rest, one object at a time. So a body may be cut anywhere, inside a
// UTF-8 sequence too, and no more than one object is held, whatever the length of the body.
//
// `metadata.managedFields` is cut out before parsing. It is half of each object, and its keys are
// texts like `k:{"uid":"..."}` that differ from object to object: the engine would keep each of
// them in its table of names until the next full collection.

/** The longest object, and the longest list without its items. */
export const OBJECT_SIZE_LIMIT = 8 * 1024 * 1024;

/** What a body is: objects one after the other, or one object with the list `items`. */
export type Shape = 'objects' | 'list';

/** The bytes are not what they should be. */
export class JsonError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'JsonError';
  }
}

export interface JsonStreamOptions {
  shape: Shape;
  onObject(object: object): void;
  sizeLimit?: number;
}

const DOUBLE_QUOTE = 0x22;
const COMMA = 0x2c;
const OPEN_BRACKET = 0x5b;
const BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b;

/** Bytes that the scanner looks at, outside of strings; 0 for all others. */
const BLANK = 1;
const QUOTE = 2;
const OPENS = 3;
const CLOSES = 4;
const KINDS = new Uint8Array(256);
for (const [bytes, kind] of [
  [' \t\r\n', BLANK], ['"', QUOTE], ['{[', OPENS], ['}]', CLOSES],
] as const) for (const byte of Buffer.from(bytes)) KINDS[byte] = kind;

/** What stands before the bracket of the list `items`. */
const ITEMS = /(^|[^\\])"items"\s*:\s*$/;

/** Depths at which objects begin: nowhere, in a stream of them, in the list `items`. */
const NOWHERE = -1;
const IN_STREAM = 0;
const IN_ITEMS = 2;

export class JsonStream {
  readonly #options: JsonStreamOptions;
  /** Brackets that are open. */
  #depth = 0;
  #isInString = false;
  #isEscaped = false;
  /** The depth at which objects to be given out begin. */
  #base: number;
  /** What earlier chunks had of the run of bytes at hand: an object, or a part of the envelope.
   * Copies, so that no chunk is held. */
  #held: Buffer[] = [];
  #heldSize = 0;
  /** A list without its items. */
  #envelope = '';
  #isComplete = false;

  constructor(options: JsonStreamOptions) {
    this.#options = options;
    this.#base = options.shape === 'objects' ? IN_STREAM : NOWHERE;
  }

  /** Takes the next bytes and gives out each object that ends in them. Throws for what is not JSON
   * or too long; the stream is of no use then. */
  push(chunk: Buffer): void {
    // Where the run of bytes at hand begins; -1 between runs.
    let start = this.#heldSize > 0 ? 0 : -1;
    for (let at = 0; at < chunk.length; at += 1) {
      if (this.#isInString) {
        at = this.#skipString(chunk, at);
        continue;
      }
      const byte = chunk[at] ?? 0;
      const kind = KINDS[byte];
      if (kind === OPENS) {
        start = this.#open(chunk, start, at, byte);
      } else if (kind === CLOSES) {
        start = this.#close(chunk, start, at);
      } else if (start < 0 && kind !== BLANK) {
        this.#checkBetween(byte);
      } else if (kind === QUOTE) {
        this.#isInString = true;
      }
    }
    if (start >= 0) this.#hold(chunk.subarray(start));
  }

  /** Says that there are no more bytes. Returns the list without its items, or null for a stream
   * of objects. Throws where the body was cut. */
  end(): object | null {
    const isList = this.#options.shape === 'list';
    const isCut = this.#depth > 0 || (isList && !this.#isComplete);
    if (isCut) throw new JsonError('the JSON text was cut');
    return isList ? parseObject(this.#envelope) : null;
  }

  /** Returns where the string ends, or the end of the chunk. */
  #skipString(chunk: Buffer, from: number): number {
    for (let at = from; at < chunk.length; at += 1) {
      const byte = chunk[at];
      if (this.#isEscaped) this.#isEscaped = false;
      else if (byte === BACKSLASH) this.#isEscaped = true;
      else if (byte === DOUBLE_QUOTE) {
        this.#isInString = false;
        return at;
      }
    }
    return chunk.length;
  }

  #open(chunk: Buffer, start: number, at: number, byte: number): number {
    const depth = this.#depth;
    this.#depth += 1;
    if (start < 0) {
      if (byte !== OPEN_BRACE || this.#isComplete) throw unexpected(byte);
      return at;
    }
    const isList = depth === 1 && byte === OPEN_BRACKET && this.#options.shape === 'list';
    if (!isList || !ITEMS.test(this.#text(chunk.subarray(start, at)))) return start;
    this.#envelope = this.#take(chunk.subarray(start, at + 1));
    this.#base = IN_ITEMS;
    return -1;
  }

  #close(chunk: Buffer, start: number, at: number): number {
    this.#depth -= 1;
    if (start >= 0 && this.#depth === this.#base) {
      this.#options.onObject(parseObject(this.#take(chunk.subarray(start, at + 1))));
      return -1;
    }
    if (this.#base === IN_ITEMS && start < 0) {
      this.#base = NOWHERE;
      return at;
    }
    if (start < 0) throw unexpected(chunk[at] ?? 0);
    if (this.#depth > 0) return start;
    this.#envelope += this.#take(chunk.subarray(start, at + 1));
    this.#isComplete = true;
    return -1;
  }

  #checkBetween(byte: number): void {
    if (byte !== COMMA || this.#base !== IN_ITEMS) throw unexpected(byte);
  }

  #hold(part: Buffer): void {
    this.#heldSize += part.length;
    const limit = this.#options.sizeLimit ?? OBJECT_SIZE_LIMIT;
    if (this.#heldSize > limit) {
      throw new JsonError(`an object is longer than ${limit} bytes`);
    }
    this.#held.push(Buffer.from(part));
  }

  /** The run of bytes at hand, whose last part this is. */
  #take(last: Buffer): string {
    const text = this.#text(last);
    this.#held = [];
    this.#heldSize = 0;
    return text;
  }

  #text(last: Buffer): string {
    const bytes = this.#held.length === 0 ? last : Buffer.concat([...this.#held, last]);
    return withoutManagedFields(bytes);
  }
}

const MANAGED_FIELDS = Buffer.from('"managedFields":[');

/** The text of an object without the list `managedFields`, whose brackets stay. In a string, where
 * quotes have a backslash before them, these bytes cannot stand. */
function withoutManagedFields(bytes: Buffer): string {
  const found = bytes.indexOf(MANAGED_FIELDS);
  if (found < 0 || bytes[found - 1] === BACKSLASH) return bytes.toString();
  const start = found + MANAGED_FIELDS.length;
  const end = closingBracket(bytes, start);
  if (end < 0) return bytes.toString();
  return bytes.toString('utf8', 0, start) + bytes.toString('utf8', end);
}

/** Where the list that was opened before `from` closes; -1 for nowhere. */
function closingBracket(bytes: Buffer, from: number): number {
  let depth = 1;
  for (let at = from; at < bytes.length; at += 1) {
    const kind = KINDS[bytes[at] ?? 0];
    if (kind === QUOTE) at = closingQuote(bytes, at + 1);
    else if (kind === OPENS) depth += 1;
    else if (kind === CLOSES) depth -= 1;
    if (depth === 0) return at;
  }
  return -1;
}

function closingQuote(bytes: Buffer, from: number): number {
  let at = from;
  while (at < bytes.length && bytes[at] !== DOUBLE_QUOTE) at += bytes[at] === BACKSLASH ? 2 : 1;
  return at;
}

function parseObject(text: string): object {
  try {
    return JSON.parse(text) as object;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new JsonError(`not JSON: ${reason}`, { cause: error });
  }
}

function unexpected(byte: number): JsonError {
  const text = JSON.stringify(String.fromCharCode(byte));
  return new JsonError(`not a stream of JSON objects: ${text} is not expected`);
}
