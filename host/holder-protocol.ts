// What daemon and holder say to each other: messages of one size, each with at most one descriptor.
// The layout must not change while holders of an earlier build may still be running; what is new
// gets a verb of its own, which an older holder refuses.
//
//     0        4         5      6        8        12
//     | magic  | version | verb | length | number | name ... zeros up to MESSAGE_SIZE |
//     | "CLVH" |   u8    |  u8  |  u16   |  u32   |
//
//     daemon                    holder
//     WATCH number=away ms      OK             this connection stands for a living daemon
//     PUT name, descriptor      OK             takes the place of one of the same name
//     DROP name                 OK             closes it; one that is not there is no error
//     LIST                      ITEM name, descriptor (each) ... OK number=how many
//     STOP                      OK, then the holder closes everything and ends
//     anything else             REFUSED name=reason
//
// Each request may be repeated: the second one changes nothing.

import { ERRNO } from '../ffi/errno.ts';
import { POLLERR, POLLHUP, POLLOUT, waitFor } from '../ffi/poll.ts';
import { sendWithFd } from '../ffi/rights.ts';

export const HOLDER_VERSION = 1;
export const MESSAGE_SIZE = 128;
const NAME_AT = 12;
/** Bytes of a name. systemd's descriptor store takes such names too: sd_pid_notify_with_fds(3). */
export const NAME_LIMIT = MESSAGE_SIZE - NAME_AT;
const MAGIC = 0x434c5648;
/** How long a message may wait for its reader before that is given up. */
const WRITE_TIMEOUT_MS = 1000;

export const HOLD_OK = 0;
export const HOLD_REFUSED = 1;
export const HOLD_ITEM = 2;
export const HOLD_WATCH = 3;
export const HOLD_PUT = 4;
export const HOLD_DROP = 5;
export const HOLD_LIST = 6;
export const HOLD_STOP = 7;

/** The name of every pod's device starts like this: a holder that has one waits for a daemon. */
export const POD_PREFIX = 'pod.';

export interface HolderMessage {
  verb: number;
  name: string;
  number: number;
}

/** The bytes of a message. Throws where the name is too long. */
export function encodeMessage(verb: number, name = '', number = 0): Uint8Array {
  const text = Buffer.from(name);
  if (text.length > NAME_LIMIT) throw new RangeError(`${name}: more than ${NAME_LIMIT} bytes`);
  const message = Buffer.alloc(MESSAGE_SIZE);
  message.writeUInt32BE(MAGIC, 0);
  message[4] = HOLDER_VERSION;
  message[5] = verb;
  message.writeUInt16BE(text.length, 6);
  message.writeUInt32BE(number, 8);
  message.set(text, NAME_AT);
  return message;
}

/** The message of these bytes, or null where they are none of this version. */
export function decodeMessage(bytes: Uint8Array): HolderMessage | null {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.length !== MESSAGE_SIZE) return null;
  const length = view.readUInt16BE(6);
  const isOurs = view.readUInt32BE(0) === MAGIC && view[4] === HOLDER_VERSION;
  if (!isOurs || length > NAME_LIMIT) return null;
  const name = view.toString('utf8', NAME_AT, NAME_AT + length);
  return { verb: view[5] ?? 0, name, number: view.readUInt32BE(8) };
}

/** Sends a message, waiting for room a while. False where it does not go. */
export function sendMessage(
  socket: number, verb: number, name = '', number = 0, fd = -1,
): boolean {
  const bytes = encodeMessage(verb, name, number);
  for (;;) {
    const sent = sendWithFd(socket, bytes, fd);
    if (sent === bytes.length) return true;
    if (sent !== -ERRNO.EAGAIN) return false;
    const events = waitFor(socket, POLLOUT, WRITE_TIMEOUT_MS);
    if (events <= 0 || (events & (POLLERR | POLLHUP)) !== 0) return false;
  }
}
