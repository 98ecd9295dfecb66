// As much of the Container Runtime Interface as a kubelet needs to start and end pod sandboxes and
// containers: unary gRPC over a unix socket, with the few messages written by hand (k8s.io/cri-api,
// runtime/v1/api.proto; the numbers below are its field numbers).

import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2';
import { connect } from 'node:net';

/** Fields of a message by number, in order. A number is a varint, the rest has a length. */
type Fields = [number, number | string | Uint8Array][];
/** What a message has, by number. */
type Message = Map<number, (number | Buffer)[]>;

const SERVICE = '/runtime.v1.RuntimeService/';
const VARINT = 0;
const LENGTH = 2;

/** A pod as the kubelet describes it. */
export interface SandboxConfig {
  name: string;
  namespace: string;
  uid: string;
  /** The cgroup that those of its containers are made in; the runtime's choice unless said. */
  cgroup?: string;
}

/** A container of a pod; its command is its image's unless said. */
export interface ContainerConfig {
  name: string;
  image: string;
  command: string[];
  environment: Record<string, string>;
}

/** How a command in a container ended. */
export interface ExecResult {
  code: number;
  stdout: string;
  stderr: string;
}

export class Cri {
  readonly #session: ClientHttp2Session;

  constructor(socketPath: string) {
    this.#session = connectHttp2('http://localhost', {
      createConnection: () => connect(socketPath),
    });
    this.#session.on('error', () => {});
  }

  /** The runtime's condition of a type, such as NetworkReady. */
  async condition(type: string): Promise<boolean> {
    const response = await this.#call('Status', []);
    const conditions = part(response, 1).get(1) ?? [];
    const found = conditions.map((bytes) => decode(bytes as Buffer))
      .find((condition) => text(condition, 1) === type);
    return found?.get(2)?.[0] === 1;
  }

  /** Starts a pod's sandbox by a runtime handler, the usual one where it is empty. Returns its
   * id. */
  async run(config: SandboxConfig, handler = ''): Promise<string> {
    const request: Fields = [[1, encodeSandbox(config)], [2, handler]];
    return text(await this.#call('RunPodSandbox', request), 1);
  }

  /** Starts a container in a sandbox. Returns its id. */
  async start(sandbox: string, pod: SandboxConfig, container: ContainerConfig): Promise<string> {
    const { name, image, command, environment } = container;
    const config = encode([
      [1, encode([[1, name], [2, 0]])], [2, encode([[1, image]])],
      ...command.map((word): Fields[number] => [3, word]),
      ...Object.entries(environment).map((pair): Fields[number] =>
        [6, encode([[1, pair[0]], [2, pair[1]]])]),
      [15, new Uint8Array(0)],
    ]);
    const created = await this.#call('CreateContainer',
      [[1, sandbox], [2, config], [3, encodeSandbox(pod)]]);
    const id = text(created, 1);
    await this.#call('StartContainer', [[1, id]]);
    return id;
  }

  /** Runs a command in a container to its end. */
  async exec(container: string, command: string[]): Promise<ExecResult> {
    const words = command.map((word): Fields[number] => [2, word]);
    const result = await this.#call('ExecSync', [[1, container], ...words]);
    const code = result.get(3)?.[0];
    return {
      code: typeof code === 'number' ? code : 0, stdout: text(result, 1), stderr: text(result, 2),
    };
  }

  /** How many sandboxes there are, whatever their state. */
  async sandboxCount(): Promise<number> {
    return ((await this.#call('ListPodSandbox', [])).get(1) ?? []).length;
  }

  async stop(id: string): Promise<void> {
    await this.#call('StopPodSandbox', [[1, id]]);
  }

  async remove(id: string): Promise<void> {
    await this.#call('RemovePodSandbox', [[1, id]]);
  }

  /** The pod's addresses, the first one first. */
  async addresses(id: string): Promise<string[]> {
    const network = part(part(await this.#call('PodSandboxStatus', [[1, id]]), 1), 5);
    const others = (network.get(2) ?? []).map((bytes) => text(decode(bytes as Buffer), 1));
    return [text(network, 1), ...others];
  }

  close(): void {
    this.#session.destroy();
  }

  #call(name: string, fields: Fields): Promise<Message> {
    const message = encode(fields);
    const frame = Buffer.alloc(5 + message.length);
    frame.writeUInt32BE(message.length, 1);
    frame.set(message, 5);
    const stream = this.#session.request({
      ':method': 'POST', ':path': SERVICE + name, 'content-type': 'application/grpc',
      te: 'trailers',
    });
    const chunks: Buffer[] = [];
    let status = '';
    let reason = '';
    const read = (headers: Record<string, unknown>): void => {
      status = String(headers['grpc-status'] ?? status);
      reason = decodeURIComponent(String(headers['grpc-message'] ?? reason));
    };
    stream.on('response', read);
    stream.on('trailers', read);
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.end(frame);
    return new Promise((resolve, reject) => {
      stream.on('error', reject);
      stream.on('close', () => {
        if (status === '0') resolve(decode(Buffer.concat(chunks).subarray(5)));
        else reject(new Error(`${name}: ${reason || `grpc status ${status}`}`));
      });
    });
  }
}

function encodeSandbox({ name, namespace, uid, cgroup }: SandboxConfig): Uint8Array {
  const metadata = encode([[1, name], [2, uid], [3, namespace], [4, 0]]);
  const linux = encode(cgroup === undefined ? [] : [[1, cgroup]]);
  return encode([[1, metadata], [2, name], [8, linux]]);
}

function encode(fields: Fields): Uint8Array {
  return Buffer.concat(fields.map(([number, value]) => {
    if (typeof value === 'number') return Buffer.from([...varint((number << 3) | VARINT),
      ...varint(value)]);
    const bytes = Buffer.from(value);
    return Buffer.concat([
      Buffer.from([...varint((number << 3) | LENGTH), ...varint(bytes.length)]), bytes,
    ]);
  }));
}

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) + 128);
  }
}

function decode(bytes: Buffer): Message {
  const message: Message = new Map();
  let at = 0;
  const number = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at] ?? 0;
      at += 1;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = number();
    const length = number();
    const isLong = (key & 7) === LENGTH;
    const value = isLong ? bytes.subarray(at, at + length) : length;
    if (isLong) at += length;
    message.set(key >>> 3, [...(message.get(key >>> 3) ?? []), value]);
  }
  return message;
}

function part(message: Message, number: number): Message {
  return decode((message.get(number)?.[0] ?? Buffer.alloc(0)) as Buffer);
}

function text(message: Message, number: number): string {
  return String(message.get(number)?.[0] ?? '');
}
