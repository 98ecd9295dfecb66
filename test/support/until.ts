// How tests wait: until something is so, never for as long as it should take.

/** How long a test waits for what must happen. Only a test that fails waits so long, so that it is
 * far more than a machine needs that is busy with other work. */
export const PATIENCE_MS = 60_000;
const POLL_MS = 5;

/** Waits until something is so. What there is instead is in the error. */
export async function until(
  what: string, isSo: () => boolean | Promise<boolean>, instead: () => string = () => '',
  limitMs = PATIENCE_MS,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!await isSo()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}; ${instead()}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
