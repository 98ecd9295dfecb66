// What the plugin answers when it cannot do as it is told: CNI specification, "Error".

/** The specification's codes, and from 100 on our own. */
export const CODE = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  unknownContainer: 3,
  invalidEnvironment: 4,
  io: 5,
  notDecoded: 6,
  invalidConfig: 7,
  tryAgainLater: 11,
  unavailable: 50,
  alreadyAttached: 100,
  checkFailed: 101,
  attachFailed: 102,
} as const;

/** Ends the plugin with a code, a message and, where there are some, details. */
export class CniError extends Error {
  override name = 'CniError';
  readonly code: number;
  readonly details: string;

  constructor(code: number, message: string, details = '') {
    super(message);
    this.code = code;
    this.details = details;
  }
}

/** Nobody answers on the daemon's socket, or no longer. */
export class DaemonDownError extends Error {
  override name = 'DaemonDownError';
}

/** Any error as the plugin's answer. A daemon that is down will be up again. */
export function toCniError(error: unknown): CniError {
  if (error instanceof CniError) return error;
  if (error instanceof DaemonDownError) return new CniError(CODE.tryAgainLater, error.message);
  const { name = '', message = String(error) } = error instanceof Error ? error : {};
  return new CniError(name === 'SystemError' ? CODE.io : CODE.attachFailed, message);
}
