// Output as kubectl's: JSON with -o json, else columns under upper-case headers.

export type OutputFormat = 'table' | 'json';

/** Prints a value: all of it as JSON, or the rows as a table. */
export function print(
  format: OutputFormat,
  value: unknown,
  headers: string[],
  rows: () => string[][],
): void {
  process.stdout.write(format === 'json' ? `${JSON.stringify(value)}\n` : table(headers, rows()));
}

/** Lays rows out under headers. */
export function table(headers: string[], rows: string[][]): string {
  const all = headers.length > 0 ? [headers, ...rows] : rows;
  const widths = (all[0] ?? []).map((_, column) =>
    Math.max(...all.map((row) => (row[column] ?? '').length)));
  return all.map((row) => {
    const cells = row.map((cell, column) => cell.padEnd(widths[column] ?? 0));
    return `${cells.join('   ').trimEnd()}\n`;
  }).join('');
}

/** Bytes as 1.2 MiB. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit] ?? ''}`;
}
