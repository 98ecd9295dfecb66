// Exit codes, and how a command ends with one (sysexits, kubectl and calicoctl conventions).

export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_UNAVAILABLE = 69;   // the daemon does not answer
export const EXIT_NO_PERMISSION = 77; // a capability or device is missing
export const EXIT_CONFIG = 78;        // bad configuration

/** Ends the command with a code and one line for standard error. */
export class CommandError extends Error {
  override name = 'CommandError';
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}
