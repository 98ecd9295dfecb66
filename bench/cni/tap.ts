// Between a plugin and the daemon: hands on what each says, and notes when it came. So a call's
// parts are known without a word from the plugin.

import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { FrameReader } from '../../engine/frame.ts';
import { CONTROL_SOCKET } from '../../host/main.ts';

/** What has come, in order, by performance.now(): `connect`, a request's method when the plugin
 * asks, and `METHOD answered`. */
export type Marks = Map<string, number>;

export class Tap {
  readonly #server: Server;
  #marks: Marks = new Map();

  private constructor(daemonFolder: string) {
    this.#server = createServer((plugin) => this.#serve(plugin, daemonFolder));
  }

  /** Listens in `folder` for the daemon in another folder. */
  static async open(folder: string, daemonFolder: string): Promise<Tap> {
    const tap = new Tap(daemonFolder);
    await new Promise<void>((resolve, reject) => {
      tap.#server.once('error', reject);
      tap.#server.listen(join(folder, CONTROL_SOCKET), resolve);
    });
    return tap;
  }

  /** What has come since it was asked last. */
  take(): Marks {
    const marks = this.#marks;
    this.#marks = new Map();
    return marks;
  }

  close(): void {
    this.#server.close();
  }

  #serve(plugin: Socket, daemonFolder: string): void {
    this.#mark('connect');
    const daemon = connect(join(daemonFolder, CONTROL_SOCKET));
    const methods = new Map<unknown, string>();
    this.#handOn(plugin, daemon, ({ type, id, method }) => {
      if (type !== 'request') return;
      methods.set(id, String(method));
      this.#mark(String(method));
    });
    this.#handOn(daemon, plugin, ({ type, id }) => {
      if (type === 'response') this.#mark(`${methods.get(id)} answered`);
    });
  }

  #handOn(
    from: Socket, to: Socket, heed: (message: Record<string, unknown>) => void,
  ): void {
    const reader = new FrameReader();
    from.on('data', (chunk: Buffer) => {
      to.write(chunk);
      for (const message of reader.push(chunk)) heed(message as Record<string, unknown>);
    });
    from.on('end', () => to.end());
    from.on('error', () => to.destroy());
  }

  #mark(name: string): void {
    this.#marks.set(name, performance.now());
  }
}
