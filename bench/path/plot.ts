// The plot of `bench path`: each ratio as a bar from 1, on a logarithmic axis, with a whisker from
// the least to the greatest of its rounds. Plain SVG: no script, no fonts.

import type { Ratio, Report } from '../report.ts';

const WIDTH = 760;
const LEFT = 220;
const RIGHT = 690;
const TOP = 64;
const ROW = 26;
const BAR = 14;
const INK = '#333333';
const GRID = '#e5e5e5';
const BETTER = '#4c72b0';
const WORSE = '#dd8452';
/** Ratios of costs: less is better. */
const COSTS = /^rtt\/|Cpu$/;
/** A rival that does more than we do, which has to be said wherever it is named. */
const ENCRYPTS = /\/wireguardGo$/;
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50];

/** Draws all ratios; null where there are none. */
export function pathPlot({ ratios }: Report): string | null {
  const rows = Object.entries(ratios);
  if (rows.length === 0) return null;
  const place = scale(rows.map(([, ratio]) => ratio));
  const bottom = TOP + (rows.length * ROW);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${bottom + 40}"`,
    ' font-family="sans-serif" font-size="13">',
    `<rect width="${WIDTH}" height="${bottom + 40}" fill="#ffffff"/>`,
    text(16, 26, 'Culvert and its rivals, as ratios of one run', 'start', 15),
    text(16, 46, 'median, with least and greatest of the rounds; of rtt and Cpu less is better',
      'start', 12),
    ...TICKS.filter((tick) => place(tick) >= LEFT && place(tick) <= RIGHT).flatMap((tick) => [
      line(place(tick), TOP, place(tick), bottom, tick === 1 ? INK : GRID),
      text(place(tick), bottom + 20, `${tick}×`),
    ]),
    ...rows.flatMap(([name, ratio], index) => drawRow(name, ratio, TOP + (index * ROW), place)),
    '</svg>', '',
  ].join('\n');
}

/** Places of ratios, so that all whiskers and 1 are on the plot. */
function scale(ratios: Ratio[]): (ratio: number) => number {
  const low = Math.log10(Math.min(0.5, ...ratios.map(({ min }) => min)) / 1.1);
  const high = Math.log10(Math.max(2, ...ratios.map(({ max }) => max)) * 1.1);
  return (ratio) =>
    Math.round((LEFT + (((Math.log10(ratio) - low) / (high - low)) * (RIGHT - LEFT))) * 10) / 10;
}

function drawRow(
  name: string, { median, min, max }: Ratio, top: number, place: (ratio: number) => number,
): string[] {
  const middle = top + (ROW / 2);
  const [from, to] = [Math.min(place(1), place(median)), Math.max(place(1), place(median))];
  const isBetter = COSTS.test(name) ? median <= 1 : median >= 1;
  return [
    text(LEFT - 12, middle + 4, ENCRYPTS.test(name) ? `${name} (encrypts)` : name, 'end'),
    `<rect x="${from}" y="${middle - (BAR / 2)}" width="${Math.max(Math.round(to - from), 1)}"`
      + ` height="${BAR}" fill="${isBetter ? BETTER : WORSE}"/>`,
    line(place(min), middle, place(max), middle, INK),
    ...[min, max].map((end) => line(place(end), middle - 4, place(end), middle + 4, INK)),
    text(RIGHT + 60, middle + 4, `${median.toFixed(2)}×`, 'end'),
  ];
}

function line(x1: number, y1: number, x2: number, y2: number, colour: string): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}"/>`;
}

function text(x: number, y: number, content: string, anchor = 'middle', size = 13): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}" fill="${INK}">`
    + `${content}</text>`;
}
