// The daemon that this one takes over from while it still runs; its part is succession.ts, their
// words are succession-words.ts.

import { join } from 'node:path';
import { HolderClient } from './holder-client.ts';
import {
  heard, said, SUCCESSION_SOCKET, SUCCESSOR_VARIABLE, type Word,
} from './succession-words.ts';

type Environment = Readonly<Record<string, string | undefined>>;

export class Predecessor {
  #heard: Word | null = null;
  #wake: () => void = () => {};
  #isOver = false;

  private constructor() {
    process.on('message', (message) => {
      this.#heard = heard(message)?.word ?? this.#heard;
      this.#wake();
    });
    // It goes on, or the service manager starts another one. What of us is made is not to be taken
    // apart: it is the other's.
    process.on('disconnect', () => {
      if (this.#heard !== 'go' && !this.#isOver) process.kill(process.pid, 'SIGKILL');
    });
  }

  /** Who has started us to take over; null where nobody has. */
  static from(environment: Environment): Predecessor | null {
    const isSuccessor = (environment[SUCCESSOR_VARIABLE] ?? '') !== '';
    return isSuccessor && process.connected ? new Predecessor() : null;
  }

  /** Tells it that everything is loaded. From then on it takes no changes. Gives descriptors of our
   * own for all that it has. */
  async take(runtimeDirectory: string): Promise<Map<string, number>> {
    await this.#ask('prepared', 'frozen');
    const client = HolderClient.find(join(runtimeDirectory, SUCCESSION_SOCKET));
    if (client === null) throw new Error('take over: the running daemon gives nothing');
    try {
      return client.list();
    } finally {
      client.close();
    }
  }

  /** Tells it that all is ready. When this resolves, it touches nothing any more. */
  stop(): Promise<void> {
    return this.#ask('ready', 'go');
  }

  /** Tells it that it may end. */
  end(): void {
    process.send?.(said('begun'), () => this.leave());
  }

  /** Says no more: where we have not begun, it goes on. */
  leave(): void {
    this.#isOver = true;
    if (process.connected) process.disconnect();
  }

  async #ask(word: Word, answer: Word): Promise<void> {
    process.send?.(said(word));
    while (this.#heard !== answer) {
      await new Promise<void>((resolve) => { this.#wake = resolve; });
    }
  }
}
