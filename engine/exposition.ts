// Metrics as Prometheus reads them: the text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/). Values are read when somebody
// asks; nothing is kept here.

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  /** What a histogram's samples have behind its name. */
  suffix?: '_bucket' | '_sum' | '_count';
  labels?: Labels;
  value: number;
}

/** All samples of one name. A counter's name ends in `_total`, and a unit is a base unit. */
export interface Metric {
  name: string;
  help: string;
  type: 'counter' | 'gauge' | 'histogram';
  samples: readonly Sample[];
}

/** The media type of what metricsText() returns. */
export const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** A metric that has one value. */
export function single(
  type: Metric['type'], name: string, help: string, value: number, labels: Labels = {},
): Metric {
  return { name, help, type, samples: [{ labels, value }] };
}

/** The metrics as text, those without samples left out. */
export function metricsText(metrics: readonly Metric[]): string {
  return metrics.filter(({ samples }) => samples.length > 0).map(metricText).join('');
}

function metricText({ name, help, type, samples }: Metric): string {
  const lines = samples.map(({ suffix = '', labels = {}, value }) =>
    `${name}${suffix}${labelsText(labels)} ${value}\n`);
  const about = help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
  return `# HELP ${name} ${about}\n# TYPE ${name} ${type}\n${lines.join('')}`;
}

function labelsText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
