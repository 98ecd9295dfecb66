// Notices that the underlay's interface has other addresses than those that tunnels start from (a
// new lease of DHCP, a new prefix of the provider), or another MTU, and has everybody go on with
// the new ones.

import type { Log } from '../engine/log.ts';
import type { Links } from '../ffi/netlink.ts';
import type { Underlay } from './underlay.ts';

/** A change is noticed within this time; a look costs two short exchanges with the kernel. */
const CHECK_MS = 1000;

export interface UnderlayWatchOptions {
  underlay: Underlay;
  links: Links;
  log: Log;
  /** Uses the underlay's sockets as they are now. When it resolves, the old ones are closed. */
  onMoved(): Promise<void>;
  /** Goes by the underlay's MTU as it is now. */
  onMtu(): Promise<void>;
}

export class UnderlayWatch {
  readonly #options: UnderlayWatchOptions;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;
  #told = '';

  constructor(options: UnderlayWatchOptions) {
    this.#options = options;
  }

  /** Looks from now on, until close(). */
  begin(): void {
    if (this.#isClosed) return;
    this.#timer = setTimeout(() => void this.#check().then(() => this.begin()), CHECK_MS).unref();
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
  }

  async #check(): Promise<void> {
    const { underlay, links, log, onMoved, onMtu } = this.#options;
    try {
      if (await underlay.followMtu(links)) {
        await onMtu();
        log.info({ mtu: underlay.mtu }, 'the underlay has another MTU');
      }
      const left = await underlay.follow(links);
      if (left === null) return;
      await onMoved();
      underlay.release(left);
      log.warn({ from: left.address, to: underlay.addresses[left.family] },
        'the underlay has another address: tunnels start from there');
      this.#told = '';
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#told && !this.#isClosed) {
        log.warn({ error: message }, 'cannot follow the underlay');
      }
      this.#told = message;
    }
  }
}
