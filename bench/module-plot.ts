// The plot of what a policy module costs: nanoseconds of a packet with none, with one that is
// called directly and with one that is called by way of its bindings, as bars. Plain SVG.

import type { Report } from './report.ts';

const BARS = [
  { name: 'module/none', label: 'first packet, no module', colour: '#8c8c8c' },
  { name: 'module/direct', label: 'first packet, a module, direct', colour: '#4c72b0' },
  { name: 'module/component', label: 'first packet, a module by its bindings', colour: '#dd8452' },
  { name: 'module/established/none', label: 'known flow, no module', colour: '#8c8c8c' },
  { name: 'module/established/direct', label: 'known flow, a module', colour: '#4c72b0' },
];
const WIDTH = 720;
const ROW = 34;
const TOP = 44;
const LABELS = 270;
const FIGURES = 80;
const INK = '#333333';

/** Draws the bars that the report has; null where it has none. */
export function modulePlot({ results }: Report): string | null {
  const bars = BARS.flatMap(({ name, ...look }) => {
    const found = results.find((result) => result.name === name);
    return found === undefined ? [] : [{ ...look, ns: found.nsPerOp }];
  });
  if (bars.length === 0) return null;
  const height = TOP + (bars.length * ROW) + 10;
  const scale = (WIDTH - LABELS - FIGURES) / Math.max(...bars.map(({ ns }) => ns));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}"`,
    ' font-family="sans-serif" font-size="13">',
    `<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>`,
    text(10, 24, 'Nanoseconds of a packet in the core', 'start', 15),
    ...bars.flatMap(({ label, colour, ns }, index) => {
      const y = TOP + (index * ROW);
      const length = Math.max(1, Math.round(ns * scale));
      return [
        text(LABELS - 10, y + 17, label, 'end'),
        `<rect x="${LABELS}" y="${y}" width="${length}" height="24" fill="${colour}"/>`,
        text(LABELS + length + 8, y + 17, `${Math.round(ns).toLocaleString('en')}`, 'start'),
      ];
    }),
    '</svg>', '',
  ].join('\n');
}

function text(x: number, y: number, content: string, anchor: string, size = 13): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}" fill="${INK}">`
    + `${content}</text>`;
}
