// Random policy modules for the slow twin of policy and for the core alike: what one says is a
// function of the flow, made from a seed. In the core some fail instead of refusing.

import type { NodeBed } from '../../cli/policy/bed.ts';
import { attachEvaluate, ModuleTable, MODULE_VERDICTS } from '../../engine/modules.ts';
import type { ModuleQuestion, TwinModule } from '../reference/policy.ts';
import { moduleEntry, moduleOfFunction } from './modules.ts';
import type { Random } from './random.ts';

const MODULES_MAX = 4;
/** Verdicts by their number; most flows are passed on. */
const SAID = ['pass', 'pass', 'pass', 'pass', 'allow', 'deny', 'reject'] as const;
const DIRECTIONS = ['ingress', 'egress'] as const;

export function randomModules(random: Random): TwinModule[] {
  return Array.from({ length: 1 + random.below(MODULES_MAX) }, (_, index): TwinModule => {
    const salt = random.below(1 << 30);
    return {
      name: `module-${index}`,
      mayAllow: random.oneIn(2),
      evaluate: (question) => SAID[hash(question, salt) % SAID.length] ?? 'pass',
    };
  });
}

/** Differs for any two flows that a module could tell apart. */
function hash(question: ModuleQuestion, salt: number): number {
  const { direction, protocol, port, source, destination } = question;
  let sum = salt;
  for (const word of [direction.length, protocol, port, source, destination]) {
    sum = Math.imul(sum ^ word, 0x9e3779b1);
    sum ^= sum >>> 15;
  }
  return sum >>> 0;
}

/** The same modules in the cores of nodes. */
export class CoreModules {
  readonly #modules: readonly TwinModule[];

  constructor(modules: readonly TwinModule[]) {
    this.#modules = modules;
  }

  nameOf(place: number): string {
    return this.#modules[place]?.name ?? '';
  }

  install(bed: NodeBed): void {
    for (const [place, { evaluate }] of this.#modules.entries()) {
      attachEvaluate(bed.core, place, moduleOfFunction((...words) => {
        const said = evaluate(questionOf(words));
        if (said === 'deny' && (words[5] ?? 0) % 2 === 1) throw new Error('fails');
        return MODULE_VERDICTS.indexOf(said);
      }));
    }
    new ModuleTable(bed.core).set(this.#modules.map(({ mayAllow }, place) =>
      moduleEntry(place, { mayAllow })));
  }
}

function questionOf(words: readonly number[]): ModuleQuestion {
  const isIpv4 = words[0] === 0;
  const last = isIpv4 ? 0 : 3;
  return {
    direction: DIRECTIONS[words[1] ?? 0] ?? 'ingress', protocol: words[2] ?? 0,
    port: words[5] ?? 0, source: (words[8 + last] ?? 0) >>> 0,
    destination: (words[12 + last] ?? 0) >>> 0,
  };
}
