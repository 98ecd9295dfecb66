// What a daemon and the one that takes over from it say to each other, over Node's channel between
// a process and one that it has started.
//
//     predecessor                      successor
//                        <-- prepared  configuration read, everything loaded
//     takes no changes
//     frozen -->                       connects to the socket
//     every descriptor, as ITEMs of holder-protocol.ts
//                        <-- ready     tables built, workers stand by
//     workers turn no more
//     go -->                           takes the flows over, workers turn
//                        <-- begun
//     ends
//
// Where the channel ends before `go`, the successor ends, and the predecessor goes on.

import * as v from 'valibot';

export const WordSchema = v.strictObject({
  word: v.picklist(['prepared', 'frozen', 'ready', 'go', 'begun']),
  /** Who says it. */
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
});
export type Word = v.InferOutput<typeof WordSchema>['word'];

/** The socket in the runtime directory, for that moment. */
export const SUCCESSION_SOCKET = 'succession.sock';
/** Tells a daemon that it is a successor. */
export const SUCCESSOR_VARIABLE = 'SUCCESSOR';
/** The name of the runtime directory's lock among the descriptors. */
export const LOCK_NAME = 'lock';

/** A word as it is sent. */
export function said(word: Word): v.InferOutput<typeof WordSchema> {
  return { word, pid: process.pid };
}

/** The word of a message and who says it; null for anything else. */
export function heard(message: unknown): v.InferOutput<typeof WordSchema> | null {
  const parsed = v.safeParse(WordSchema, message);
  return parsed.success ? parsed.output : null;
}
