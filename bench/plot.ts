// The plot of a report: what a packet costs against the number of policies or rules, each series as
// a multiple of its own cost at 100. Both axes are logarithmic. Plain SVG: no script, no fonts.

import type { Report } from './report.ts';

interface Series {
  label: string;
  colour: string;
  /** Number of policies, and cost as a multiple of that at the first point. */
  points: [number, number][];
}

const SERIES = [
  { prefix: 'nft/', label: 'nftables, linear rules, whole kernel path', colour: '#c44e52' },
  { prefix: 'policyMiss/', label: 'Culvert, first packet of a flow', colour: '#dd8452' },
  { prefix: 'policy/', label: 'Culvert, mixed traffic', colour: '#4c72b0' },
];
const BASE = 100;
const SIZE = { width: 720, height: 400 };
const AREA = { left: 70, right: 700, top: 50, bottom: 340 };
const INK = '#333333';

/** Draws the series that the report has; null where it has none. */
export function policyPlot(report: Report): string | null {
  const series = SERIES
    .map(({ prefix, ...look }): Series => ({ ...look, points: pointsOf(report, prefix) }))
    .filter(({ points }) => points.length > 1);
  if (series.length === 0) return null;
  const sizes = series.flatMap(({ points }) => points.map(([size]) => size));
  const costs = series.flatMap(({ points }) => points.map(([, cost]) => cost));
  const x = logScale(Math.min(...sizes), Math.max(...sizes), AREA.left, AREA.right);
  const lowest = 10 ** Math.floor(Math.log10(Math.min(...costs) * 1.01));
  const y = logScale(lowest, 10 ** Math.ceil(Math.log10(Math.max(...costs, 10) / 1.01)),
    AREA.bottom, AREA.top);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${SIZE.width} ${SIZE.height}"`,
    ' font-family="sans-serif" font-size="13">',
    `<rect width="${SIZE.width}" height="${SIZE.height}" fill="#ffffff"/>`,
    text(AREA.left, 24, 'Cost of a packet, as a multiple of its cost at 100', 'start', 15),
    ...ticks(x).map((size) => xTick(x.place(size), size)),
    ...ticks(y).map((cost) => yTick(y.place(cost), cost)),
    text((AREA.left + AREA.right) / 2, AREA.bottom + 42, 'policies, or rules'),
    ...series.flatMap((one, index) => drawSeries(one, index, x, y)),
    '</svg>', '',
  ].join('\n');
}

function pointsOf({ results }: Report, prefix: string): [number, number][] {
  const found = results.flatMap(({ name, nsPerOp }): [number, number][] => {
    const size = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : NaN;
    return size >= BASE ? [[size, nsPerOp]] : [];
  }).sort(([one], [other]) => one - other);
  const base = found[0]?.[1] ?? NaN;
  return found.map(([size, cost]) => [size, cost / base]);
}

interface Scale {
  low: number;
  high: number;
  place: (value: number) => number;
}

function logScale(low: number, high: number, from: number, to: number): Scale {
  const span = Math.log10(high) - Math.log10(low);
  const place = (value: number): number =>
    Math.round((from + (((Math.log10(value) - Math.log10(low)) / span) * (to - from))) * 10) / 10;
  return { low, high, place };
}

/** Powers of ten on a scale. */
function ticks({ low, high }: Scale): number[] {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index));
}

function xTick(x: number, value: number): string {
  return line(x, AREA.top, x, AREA.bottom, '#e5e5e5')
    + text(x, AREA.bottom + 20, value.toLocaleString('en'));
}

function yTick(y: number, value: number): string {
  return line(AREA.left, y, AREA.right, y, '#e5e5e5')
    + text(AREA.left - 10, y + 4, `${value}×`, 'end');
}

function drawSeries(
  { label, colour, points }: Series, index: number, x: Scale, y: Scale,
): string[] {
  const places = points.map(([size, cost]) => [x.place(size), y.place(cost)] as const);
  const path = places.map(([left, top]) => `${left},${top}`).join(' ');
  const legend = AREA.top + 18 + (index * 20);
  return [
    `<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2.5"/>`,
    ...places.map(([left, top]) => `<circle cx="${left}" cy="${top}" r="4" fill="${colour}"/>`),
    line(AREA.left + 14, legend - 4, AREA.left + 38, legend - 4, colour, 2.5),
    text(AREA.left + 46, legend, label, 'start'),
  ];
}

function line(x1: number, y1: number, x2: number, y2: number, colour: string, width = 1): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}"`
    + ` stroke-width="${width}"/>`;
}

function text(x: number, y: number, content: string, anchor = 'middle', size = 13): string {
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}" fill="${INK}">`
    + `${content}</text>`;
}
