// A page's commands and what it says that they print.

/** A fenced block of a page. */
export interface Block {
  language: string;
  text: string;
}

/** Commands, and the lines that the page shows as what they print; null where it shows none. */
export interface Step {
  commands: string;
  shown: string[] | null;
}

/** The fenced blocks of a section, which begins with its heading. */
export function blocksOf(page: string, heading: string): Block[] {
  const start = page.indexOf(`\n## ${heading}\n`);
  if (start < 0) throw new Error(`there is no section "${heading}"`);
  const end = page.indexOf('\n## ', start + 1);
  const section = page.slice(start, end < 0 ? page.length : end);
  return [...section.matchAll(/^```(\w*)\n([^]*?)^```$/gm)].map(([, language = '', text = '']) =>
    ({ language, text }));
}

/** The steps that shell blocks are, each with the block of text behind it. */
export function stepsOf(blocks: readonly Block[]): Step[] {
  const steps: Step[] = [];
  for (const { language, text } of blocks) {
    const last = steps.at(-1);
    if (language === 'sh') steps.push({ commands: text, shown: null });
    if (language === 'text' && last !== undefined) last.shown = comparable(text);
  }
  return steps;
}

/** Lines without what differs from run to run: moments, numbers, hashes, columns' widths. */
export function comparable(text: string): string[] {
  return text.trimEnd().split('\n').map((line) => line
    .replace(/^[A-Z][a-z]{2} \d\d [\d:.]+:/, 'TIME:')
    .replace(/\b[0-9a-f]{12,64}\b/g, 'HASH')
    .replace(/\d+/g, 'N')
    .replace(/ +/g, ' '));
}
