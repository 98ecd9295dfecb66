// A README beside the code of each part.

import type { SourceFile } from '../source.ts';

const SOURCE = /^([^/.]+)\/.*\.(ts|mjs|c|wit|ya?ml)$/;
const README_LINES_LIMIT = 80;

/** Top-level folders with source and without a README.md, and READMEs over a page. */
export function checkReadmes(files: SourceFile[]): string[] {
  const parts = new Set(files.map(({ path }) => SOURCE.exec(path)?.[1]));
  const faults: string[] = [];
  for (const part of parts) {
    if (part === undefined) continue;
    const readme = files.find(({ path }) => path === `${part}/README.md`);
    const lines = readme?.text.split('\n').length ?? 0;
    if (readme === undefined) faults.push(`${part}/README.md: missing; say what goes in and out`);
    if (lines > README_LINES_LIMIT) {
      faults.push(`${part}/README.md: ${lines} lines; it is one page, ${README_LINES_LIMIT}`);
    }
  }
  return faults;
}
