// Two programs talking over any stream of bytes. The side with a role opens with `hello`, the other
// answers `welcome` or `refuse`; from then on both may send requests, which are answered by id, and
// notifications, which are not.
//
//            hello              welcome
//   closed --------> greeting ----------> open --> closed (for good)
//                        |  refuse, error, bad frame  ^
//                        +----------------------------+
//
// A message that is not as it must be ends the connection with an `error` frame that says why; bad
// parameters of a request fail that request only. In both cases no handler has seen any of it.
// There is no clock here: whoever waits decides for how long.

import * as v from 'valibot';
import { FrameError, FrameReader, encodeFrame } from './frame.ts';
import { ShapeError, parseShape } from './shape.ts';

/** Changes when the conversation changes. */
export const PROTOCOL = 1;
/** Requests of one connection that may wait for an answer at a time, in each direction. */
export const OPEN_REQUEST_LIMIT = 1024;

const TEXT_LIMIT = 4096;
export const ROLES = ['cli', 'sync', 'cni'] as const;
export type Role = (typeof ROLES)[number];

const Text = v.pipe(v.string(), v.maxLength(TEXT_LIMIT));
const Version = v.pipe(v.string(), v.maxLength(64));
const Id = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const MethodName = v.pipe(v.string(), v.regex(/^[a-z][A-Za-z0-9.-]{0,63}$/, 'not a method name'));
const HelloSchema = v.strictObject({
  type: v.literal('hello'), protocol: v.number(), role: v.picklist(ROLES), version: Version,
});
const MessageSchema = v.variant('type', [
  v.looseObject({ type: v.literal('hello'), protocol: v.number() }),
  v.strictObject({ type: v.literal('welcome'), protocol: v.number(), version: Version }),
  v.strictObject({ type: v.literal('refuse'), message: Text }),
  v.strictObject({
    type: v.literal('request'), id: Id, method: MethodName, params: v.unknown(),
  }),
  v.strictObject({ type: v.literal('response'), id: Id, result: v.unknown() }),
  v.strictObject({ type: v.literal('failure'), id: Id, code: Text, message: Text }),
  v.strictObject({ type: v.literal('notify'), method: MethodName, params: v.unknown() }),
  v.strictObject({ type: v.literal('error'), message: Text }),
]);
type Message = v.InferOutput<typeof MessageSchema>;
type Of<T extends Message['type']> = Extract<Message, { type: T }>;

/** Who is at the other end. `role` is null for the side that answers. */
export interface Party {
  role: Role | null;
  version: string;
}

/** The connection is over; pending requests are rejected with it. */
export class ConnectionError extends Error {
  override name = 'ConnectionError';
}

/** A request that was refused. A handler throws it to choose the code the other side reads. */
export class RequestError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = 'RequestError';
    this.code = code;
  }
}

/** What a side answers to: the parameters' schema, and what is done with them. */
export interface Method {
  params: v.GenericSchema;
  handle(params: unknown, connection: Connection): unknown;
}
export type Methods = Readonly<Record<string, Method>>;

/** Makes an entry of a table of methods; the handler's parameter has the schema's type. The result
 * (or what its promise gives) must be plain data; nothing counts as null. */
export function method<S extends v.GenericSchema>(
  params: S, handle: (params: v.InferOutput<S>, connection: Connection) => unknown,
): Method {
  return { params, handle: (value, connection) => handle(value, connection) };
}

export interface ConnectionOptions {
  /** Sends bytes; false means that the other side is slow to take them. */
  send(bytes: Uint8Array): boolean;
  /** Closes the transport once what was sent is out. */
  end(): void;
  version: string;
  /** Given for the side that opens the conversation. */
  role?: Role;
  /** For the answering side: a reason to refuse this party, or null. */
  accept?(party: Party): string | null;
  methods?: Methods;
  /** Told when the handshake is over, before any request is heard. */
  onOpen?(connection: Connection): void;
  /** Told once, when the other side broke the protocol. */
  onFault?(error: Error): void;
  /** Told when a handler failed with something else than a RequestError. */
  onHandlerError?(method: string, error: unknown): void;
}

interface Waiting {
  schema: v.GenericSchema;
  method: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class Connection {
  /** Settles when the handshake is over: the other party, or why there is none. */
  readonly opened: Promise<Party>;
  /** Resolves when the connection is over: null when this side closed it, else why. */
  readonly closed: Promise<Error | null>;
  readonly #options: ConnectionOptions;
  readonly #reader = new FrameReader();
  readonly #waiting = new Map<number, Waiting>();
  #state: 'greeting' | 'open' | 'closed' = 'greeting';
  #party: Party | null = null;
  #nextId = 1;
  #serving = 0;
  #resolveOpened!: (party: Party) => void;
  #rejectOpened!: (error: Error) => void;
  #resolveClosed!: (error: Error | null) => void;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.opened = new Promise((resolve, reject) => {
      this.#resolveOpened = resolve;
      this.#rejectOpened = reject;
    });
    this.opened.catch(() => {});
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    if (options.role !== undefined) {
      const { role, version } = options;
      this.#send({ type: 'hello', protocol: PROTOCOL, role, version });
    }
  }

  /** The other side, once the handshake is over. */
  get party(): Party | null {
    return this.#party;
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  /** Takes bytes from the transport. Never throws for what they hold. */
  receive(chunk: Uint8Array): void {
    if (this.#state === 'closed') return;
    let messages: unknown[];
    let fault: FrameError | null = null;
    try {
      messages = this.#reader.push(chunk);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      messages = error.before;
      fault = error;
    }
    for (const message of messages) this.#takeSafely(message);
    if (fault !== null) this.#fail(fault);
  }

  /** Asks and gives the checked answer. Rejects with RequestError when refused. */
  request<S extends v.GenericSchema>(
    name: string, params: unknown, result: S,
  ): Promise<v.InferOutput<S>> {
    if (this.#state !== 'open') {
      return Promise.reject(new ConnectionError(`${name}: the connection is not open`));
    }
    if (this.#waiting.size >= OPEN_REQUEST_LIMIT) {
      return Promise.reject(new RequestError('busy', `${name}: too many requests are waiting`));
    }
    return new Promise((resolve, reject) => {
      const id = this.#nextId;
      this.#nextId += 1;
      this.#waiting.set(id, { schema: result, method: name, resolve, reject });
      this.#sendRequest(id, name, params ?? null);
    });
  }

  /** Tells without asking. False: not open, or the other side is slow, so better hold back. */
  notify(name: string, params: unknown): boolean {
    if (this.#state !== 'open') return false;
    return this.#send({ type: 'notify', method: name, params: params ?? null });
  }

  /** Ends the connection; the reason, if any, is told to the other side. */
  close(reason?: string): void {
    if (this.#state === 'closed') return;
    if (reason !== undefined) this.#send({ type: 'error', message: reason.slice(0, TEXT_LIMIT) });
    this.#finish(null);
  }

  /** To be called when the transport is gone. */
  transportClosed(error?: Error): void {
    this.#finish(new ConnectionError(error?.message ?? 'the other side closed the connection'));
  }

  #send(message: Message): boolean {
    return this.#options.send(encodeFrame(message));
  }

  /** Throws, and forgets the request, where its parameters do not fit a frame. */
  #sendRequest(id: number, name: string, params: unknown): void {
    try {
      this.#send({ type: 'request', id, method: name, params });
    } catch (error) {
      this.#waiting.delete(id);
      throw error;
    }
  }

  #takeSafely(message: unknown): void {
    if (this.#state === 'closed') return;
    try {
      this.#take(parseShape(MessageSchema, message, 'message'));
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #take(message: Message): void {
    if (message.type === 'error') {
      this.#finish(new ConnectionError(`closed by the other side: ${message.message}`));
    } else if (this.#state === 'greeting') {
      this.#greet(message);
    } else if (message.type === 'request') {
      this.#serve(message);
    } else if (message.type === 'notify') {
      this.#heed(message);
    } else if (message.type === 'response' || message.type === 'failure') {
      this.#settle(message);
    } else {
      throw new ConnectionError(`unexpected ${message.type} after the handshake`);
    }
  }

  #greet(message: Message): void {
    if (this.#options.role === undefined && message.type === 'hello') {
      this.#answerHello(message);
    } else if (this.#options.role !== undefined && message.type === 'welcome') {
      const { protocol } = message;
      if (protocol !== PROTOCOL) throw new ConnectionError(protocolReason(protocol));
      this.#open({ role: null, version: message.version });
    } else if (this.#options.role !== undefined && message.type === 'refuse') {
      this.#finish(new ConnectionError(`refused: ${message.message}`));
    } else {
      throw new ConnectionError(`unexpected ${message.type} before the handshake`);
    }
  }

  #answerHello(message: Of<'hello'>): void {
    if (message.protocol !== PROTOCOL) return this.#refuse(protocolReason(message.protocol));
    const { role, version } = parseShape(HelloSchema, message, 'hello');
    const reason = this.#options.accept?.({ role, version }) ?? null;
    if (reason !== null) return this.#refuse(reason);
    this.#send({ type: 'welcome', protocol: PROTOCOL, version: this.#options.version });
    this.#open({ role, version });
  }

  #refuse(reason: string): void {
    this.#send({ type: 'refuse', message: reason.slice(0, TEXT_LIMIT) });
    this.#finish(new ConnectionError(reason));
  }

  #open(party: Party): void {
    this.#state = 'open';
    this.#party = party;
    this.#options.onOpen?.(this);
    this.#resolveOpened(party);
  }

  #serve({ id, method: name, params }: Of<'request'>): void {
    try {
      if (this.#serving >= OPEN_REQUEST_LIMIT) throw new RequestError('busy', 'too many requests');
      const result = this.#call(name, params);
      this.#serving += 1;
      Promise.resolve(result)
        .then((value) => this.#respond(id, value))
        .catch((error: unknown) => this.#respondFailure(id, name, error))
        .finally(() => { this.#serving -= 1; });
    } catch (error) {
      this.#respondFailure(id, name, error);
    }
  }

  #call(name: string, params: unknown): unknown {
    const methods = this.#options.methods ?? {};
    const entry = Object.hasOwn(methods, name) ? methods[name] : undefined;
    if (entry === undefined) throw new RequestError('unknown-method', `no method ${name}`);
    return entry.handle(parseShape(entry.params, params, name), this);
  }

  #respond(id: number, result: unknown): void {
    if (this.#state === 'open') this.#send({ type: 'response', id, result: result ?? null });
  }

  #respondFailure(id: number, name: string, error: unknown): void {
    if (this.#state !== 'open') return;
    const message = (error instanceof Error ? error.message : String(error)).slice(0, TEXT_LIMIT);
    const code = failureCode(error);
    if (code === 'failed') this.#options.onHandlerError?.(name, error);
    this.#send({ type: 'failure', id, code, message });
  }

  /** A failing handler of a notification has nobody to answer to; bad parameters end it all. */
  #heed({ method: name, params }: Of<'notify'>): void {
    try {
      Promise.resolve(this.#call(name, params))
        .catch((error: unknown) => this.#options.onHandlerError?.(name, error));
    } catch (error) {
      if (error instanceof ShapeError || error instanceof RequestError) throw error;
      this.#options.onHandlerError?.(name, error);
    }
  }

  #settle(message: Of<'response'> | Of<'failure'>): void {
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) throw new ConnectionError(`answer to unknown id ${message.id}`);
    this.#waiting.delete(message.id);
    if (message.type === 'failure') {
      waiting.reject(new RequestError(message.code, message.message));
      return;
    }
    try {
      waiting.resolve(parseShape(waiting.schema, message.result, `answer to ${waiting.method}`));
    } catch (error) {
      waiting.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #fail(error: Error): void {
    if (this.#state === 'closed') return;
    this.#options.onFault?.(error);
    this.#send({ type: 'error', message: error.message.slice(0, TEXT_LIMIT) });
    this.#finish(error);
  }

  #finish(error: Error | null): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    const reason = error ?? new ConnectionError('the connection was closed');
    this.#rejectOpened(reason);
    for (const waiting of this.#waiting.values()) waiting.reject(reason);
    this.#waiting.clear();
    this.#resolveClosed(error);
    this.#options.end();
  }
}

function protocolReason(theirs: number): string {
  return `one side speaks protocol ${theirs}, the other ${PROTOCOL}; update the older of the two`;
}

function failureCode(error: unknown): string {
  if (error instanceof RequestError) return error.code;
  if (error instanceof ShapeError) return 'invalid';
  return error instanceof FrameError ? 'too-large' : 'failed';
}

/** The part of a socket that a connection needs; net.Socket has it. */
export interface ByteStream {
  write(bytes: Uint8Array): boolean;
  end(): unknown;
  on(event: 'data', listener: (chunk: Uint8Array) => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  on(event: 'close', listener: () => void): unknown;
}

/** Opens or answers a conversation over a socket that is connected, or is about to be. */
export function connectionOver(
  stream: ByteStream, options: Omit<ConnectionOptions, 'send' | 'end'>,
): Connection {
  const connection = new Connection({
    ...options,
    send: (bytes) => stream.write(bytes),
    end: () => stream.end(),
  });
  attachSocket(connection, stream);
  return connection;
}

/** Hands a connection what a socket receives, and its end. */
export function attachSocket(connection: Connection, stream: ByteStream): void {
  stream.on('data', (chunk) => connection.receive(chunk));
  stream.on('error', (error) => connection.transportClosed(error));
  stream.on('close', () => connection.transportClosed());
}
