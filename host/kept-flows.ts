// The flow table as a file that the holder keeps: mapped over the kept pages of linear memory, so
// that every store of the core is in the file at once, and a killed daemon leaves all it knew.

import type { Core } from '../engine/core.ts';
import { adoptKept, beginKept, keptPages } from '../engine/tables/kept.ts';
import { closeFd } from '../ffi/file.ts';
import { createMemfd, fileSize, mapOver } from '../ffi/memfd.ts';

/** The file, and how many flows of another daemon are in it; null: it began empty. */
export interface KeptFlows {
  fd: number;
  adopted: number | null;
}

/** Puts a file in the place of the kept pages: the one that was held, if it is of this layout, else
 * a new one; `held` is -1 for none, and is closed where it is of no use. Precondition: the core is
 * new, and no worker runs. */
export function keepFlows(core: Core, held: number, nowMs: number): KeptFlows {
  const pages = keptPages(core);
  if (held >= 0) {
    const adopted = fileSize(held) === pages.length ? adopt(core, held, nowMs) : null;
    if (adopted !== null) return { fd: held, adopted };
    closeFd(held);
  }
  const fd = createMemfd('culvert-flows', pages.length);
  mapOver(pages, fd);
  beginKept(core);
  return { fd, adopted: null };
}

function adopt(core: Core, fd: number, nowMs: number): number | null {
  mapOver(keptPages(core), fd);
  return adoptKept(core, nowMs);
}
