// The plot of a soak: one panel for each kind of figure over the same time, with a line where the
// daemon was killed. Plain SVG: no script, no fonts.

import type { Figures, Sample } from './samples.ts';

interface Panel {
  title: string;
  /** What a figure is divided by to be drawn. */
  unit: number;
  of: (sample: Sample) => Figures;
}

const PANELS: Panel[] = [
  { title: 'resident memory, MiB', unit: 2 ** 20, of: ({ residentBytes }) => residentBytes },
  { title: 'heap in use, MiB', unit: 2 ** 20, of: ({ heapBytes }) => heapBytes },
  { title: 'descriptors', unit: 1, of: ({ descriptors }) => descriptors },
  { title: 'flow entries', unit: 1, of: ({ flows }) => flows },
  {
    title: 'ping, ms', unit: 1, of: ({ pingMs, controlMs }) => ({
      'median': pingMs.median, 'p95': pingMs.p95,
      'median without Culvert': controlMs.median, 'p95 without Culvert': controlMs.p95,
    }),
  },
  { title: 'packets dropped so far', unit: 1, of: ({ drops }) => drops },
];
const COLOURS = ['#4c72b0', '#c44e52', '#55a868', '#8172b3', '#dd8452', '#64b5cd', '#8c8c8c'];
const INK = '#333333';
const FAINT = '#e5e5e5';
const WIDTH = 960;
const PANEL_HEIGHT = 190;
const AREA = { left: 70, right: 740, top: 34, bottom: 160 };
const LEGEND_LEFT = AREA.right + 16;

/** Draws all panels. `kills` are seconds, as in the samples; the warm-up, up to `judgedFrom`, is
 * shaded. */
export function soakPlot(
  samples: readonly Sample[], kills: readonly number[], judgedFrom: number,
): string {
  const endSeconds = Math.max(1, samples.at(-1)?.seconds ?? 0);
  const x = (seconds: number): number =>
    round(AREA.left + ((seconds / endSeconds) * (AREA.right - AREA.left)));
  const height = PANELS.length * PANEL_HEIGHT;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height + 20}"`,
    ' font-family="sans-serif" font-size="12">',
    `<rect width="${WIDTH}" height="${height + 20}" fill="#ffffff"/>`,
    ...PANELS.flatMap((panel, index) => [
      `<g transform="translate(0 ${index * PANEL_HEIGHT})">`,
      `<rect x="${AREA.left}" y="${AREA.top}" width="${x(Math.min(judgedFrom, endSeconds))
        - AREA.left}" height="${AREA.bottom - AREA.top}" fill="#f3f3f3"/>`,
      ...kills.map((at) => line(x(at), AREA.top, x(at), AREA.bottom, '#f3d9c9')),
      ...drawPanel(panel, samples, x), '</g>',
    ]),
    ...minutes(endSeconds).map((minute) => text(x(minute * 60), height + 4, `${minute} min`)),
    '</svg>', '',
  ].join('\n');
}

function drawPanel(
  { title, unit, of }: Panel, samples: readonly Sample[], x: (seconds: number) => number,
): string[] {
  const names = [...new Set(samples.flatMap((sample) => Object.keys(of(sample))))];
  const highest = Math.max(1, ...samples.flatMap((sample) => Object.values(of(sample)))) / unit;
  const step = niceStep(highest);
  const top = Math.ceil(highest / step) * step;
  const y = (value: number): number =>
    round(AREA.bottom - ((value / top) * (AREA.bottom - AREA.top)));
  const marks = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step);
  return [
    text(AREA.left, AREA.top - 12, title, 'start', 14),
    ...marks.map((value) => line(AREA.left, y(value), AREA.right, y(value), FAINT)
      + text(AREA.left - 8, y(value) + 4, value.toLocaleString('en'), 'end')),
    ...names.flatMap((name, index) => {
      const colour = COLOURS[index % COLOURS.length] ?? INK;
      const points = samples.map((sample) =>
        `${x(sample.seconds)},${y((of(sample)[name] ?? 0) / unit)}`).join(' ');
      const legend = AREA.top + 10 + (index * 16);
      return [
        `<polyline points="${points}" fill="none" stroke="${colour}" stroke-width="1.5"/>`,
        line(LEGEND_LEFT, legend - 4, LEGEND_LEFT + 16, legend - 4, colour, 2.5),
        text(LEGEND_LEFT + 22, legend, name, 'start'),
      ];
    }),
  ];
}

/** One, two or five times a power of ten, so that there are three to eight of them. */
function niceStep(highest: number): number {
  const power = 10 ** Math.floor(Math.log10(highest / 3));
  return [1, 2, 5, 10].map((factor) => factor * power)
    .find((step) => highest / step <= 5) ?? power * 10;
}

function minutes(endSeconds: number): number[] {
  const step = [1, 2, 5, 10, 30, 60].find((size) => endSeconds / 60 / size <= 10) ?? 120;
  return Array.from({ length: Math.floor(endSeconds / 60 / step) + 1 }, (_, index) => index * step);
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function line(x1: number, y1: number, x2: number, y2: number, colour: string, width = 1): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}"`
    + ` stroke-width="${width}"/>`;
}

function text(x: number, y: number, content: string, anchor = 'middle', size = 12): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}" fill="${INK}">`
    + `${content}</text>`;
}
