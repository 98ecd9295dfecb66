// What one test file's output means, and how the runner says it. Pure: the runner does the running.

/** One finished process of a test file. */
export interface FileRun {
  file: string;
  output: string;
  code: number | null;
  signal: string | null;
  seconds: number;
  timedOut: boolean;
  limitMs: number;
}

/** The judgement of a test file. `problem` says what is wrong beside failed assertions. */
export interface Outcome extends FileRun {
  passed: number;
  failed: number;
  skipped: number;
  problem: string | null;
  skips: string[];
}

export interface Sum {
  passed: number;
  failed: number;
  skipped: number;
  skips: string[];
  failedFiles: string[];
}

const DEFAULT_LIMIT_MS = 300_000;

/** How long a file may be silent: what its first line asks for, as in `// time limit: 600 s`. uvu
 * says something after each test, so a machine that is slow now takes nothing from those that
 * follow. */
export function timeLimitMs(source: string): number {
  const asked = /^\/\/ time limit: (\d+) s\b/.exec(source);
  return asked === null ? DEFAULT_LIMIT_MS : Number(asked[1]) * 1000;
}

/** The number after `label` in uvu's summary, or null when the run printed no summary. */
function summaryNumber(output: string, label: string): number | null {
  const all = [...output.matchAll(new RegExp(`^ {2}${label}: +(\\d+)$`, 'gm'))];
  const last = all.at(-1);
  return last === undefined ? null : Number(last[1]);
}

/** What went wrong with the process itself, or null. */
function findProblem(run: FileRun, total: number | null, skipped: number): string | null {
  if (run.timedOut) return `silent for ${run.limitMs / 1000} s`;
  if (run.signal !== null) return `ended by ${run.signal}`;
  if (total === null) return `ended with status ${run.code} and no summary`;
  if (total + skipped === 0) return 'ran no test';
  return null;
}

/** What a status says that contradicts the summary, or null. uvu ends well when a hook that runs
 * before the tests threw, though none of them ran. */
function findContradiction(code: number | null, failed: number): string | null {
  if (code === 0 && failed > 0) return 'a hook threw before the tests, and uvu hides the error';
  return code !== 0 && failed === 0 ? `exit status ${code}` : null;
}

/** Judges a finished test file. A crash, a time-out and a file without tests count as one failed
 * test. So does a status that the summary does not explain. */
export function judge(run: FileRun): Outcome {
  const total = summaryNumber(run.output, 'Total');
  const passed = summaryNumber(run.output, 'Passed') ?? 0;
  const skipped = summaryNumber(run.output, 'Skipped') ?? 0;
  const unpassed = Math.max(0, (total ?? 0) - passed);
  const broken = findProblem(run, total, skipped);
  const problem = broken ?? findContradiction(run.code, unpassed);
  const failed = unpassed + (broken !== null || (problem !== null && unpassed === 0) ? 1 : 0);
  const skips = [...run.output.matchAll(/^SKIP (.+?)\r?$/gm)].map((match) => match[1] ?? '');
  return { ...run, passed, failed, skipped, problem, skips };
}

/** The runner's line for a file; with the whole output when something failed. */
export function describe(outcome: Outcome): string {
  const counts = [
    outcome.failed > 0 ? `${outcome.failed} failed` : '',
    outcome.passed > 0 || outcome.failed + outcome.skipped === 0 ? `${outcome.passed} passed` : '',
    outcome.skipped > 0 ? `${outcome.skipped} skipped` : '',
  ].filter((count) => count !== '').join(', ');
  const word = outcome.failed > 0 ? 'FAIL' : 'ok  ';
  const line = `${word} ${outcome.file}  ${counts}  ${outcome.seconds.toFixed(1)} s\n`;
  if (outcome.failed === 0) return line;
  const problem = outcome.problem === null ? '' : `     ${outcome.problem}\n`;
  return `${line}${problem}${indent(outcome.output)}`;
}

function indent(text: string): string {
  const trimmed = text.trimEnd();
  return trimmed === '' ? '' : `${trimmed.replace(/^(?=.)/gm, '     | ')}\n`;
}

/** Adds the outcomes up. A file that skipped more than it gave reasons for is named. */
export function addUp(outcomes: Outcome[]): Sum {
  const sum: Sum = { passed: 0, failed: 0, skipped: 0, skips: [], failedFiles: [] };
  for (const outcome of outcomes) {
    sum.passed += outcome.passed;
    sum.failed += outcome.failed;
    sum.skipped += outcome.skipped;
    for (const skip of outcome.skips) sum.skips.push(`${outcome.file}: ${skip}`);
    const silent = outcome.skipped - outcome.skips.length;
    if (silent > 0) sum.skips.push(`${outcome.file}: ${silent} without a reason`);
    if (outcome.failed > 0) sum.failedFiles.push(outcome.file);
  }
  sum.skips.sort();
  sum.failedFiles.sort();
  return sum;
}
