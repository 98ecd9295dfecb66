// Does the number of policies show in what a packet costs? The same pods, flows and packets are
// judged by 100 to 100,000 policies (policy-scene.ts), in the mix (mix.ts) and, on the miss path,
// with every packet the first of its flow.

import { Mix } from './mix.ts';
import { makePolicyScene, servicePort } from './policy-scene.ts';
import { measure, type Effort, type Measured, type RatioSpec, type Subject } from './rounds.ts';
import { BATCH } from './scene.ts';

const SIZES = [100, 1000, 10_000, 100_000];
const PODS = 50_000;
const SMALL_SIZES = [10, 100];
const SMALL_PODS = 100;
const FIRST_PART = 0.05;
/** On the miss path flows are forgotten before the table is half full, so that no packet pays for
 * finding one to give up. */
const BATCHES_KEPT = 1000;

export function policyBench(effort: Effort, small: boolean): Measured {
  const sizes = small ? SMALL_SIZES : SIZES;
  const subjects = sizes.flatMap((policies) => {
    effort.say(`policy: making ${policies} policies`);
    return policySubjects(policies, small ? SMALL_PODS : PODS, effort);
  });
  const [largest, base] = [sizes.at(-1) ?? 0, sizes.at(small ? 0 : 1) ?? 0];
  const ratios = ['policy', 'policyMiss'].map((name): RatioSpec => ({
    name: `${name}/${largest}:${base}`, cost: `${name}/${largest}`, to: `${name}/${base}`,
  }));
  return measure('policy', subjects, ratios, effort);
}

/** Both paths of one number of policies, and what their input costs. They are two scenes, so that
 * one forgets its flows without the other's. */
function policySubjects(policies: number, pods: number, effort: Effort): Subject[] {
  const { core, tables } = makePolicyScene(policies, pods);
  for (const { name, used, limit } of tables.tables()) {
    if (used > 0) effort.say(`policy: ${policies} policies: ${name}: ${used} of ${limit}`);
  }
  const portOf = (pod: number): number => servicePort(pod, policies);
  const settings = { pods, family: 4, way: 'any', portOf } as const;
  const mix = new Mix(core, { ...settings, first: FIRST_PART });
  const misses = new Mix(makePolicyScene(policies, pods).core, { ...settings, first: 1 });
  mix.establish();
  const rules = misses.countRules();
  if (rules !== policies) throw new Error(`${policies} policies, of which ${rules} were asked`);
  misses.forgetFlows();
  return [
    ...withInput(`policy/${policies}`, mix, () => mix.turn()),
    ...withInput(`policyMiss/${policies}`, misses, everyNth(BATCHES_KEPT, misses)),
  ];
}

/** A turn that forgets all flows at every nth call. */
function everyNth(count: number, mix: Mix): () => void {
  let batches = 0;
  return () => {
    batches += 1;
    if (batches % count === 0) mix.forgetFlows();
    mix.turn();
  };
}

function withInput(name: string, mix: Mix, run: () => void): Subject[] {
  const input = `${name}/input`;
  return [
    { name: input, hidden: true, opsPerRun: BATCH, run: () => mix.fill(), hash: () => '' },
    {
      name,
      opsPerRun: BATCH,
      run,
      hash: () => mix.hash(),
      check: () => mix.expectNoDrops(),
      without: input,
    },
  ];
}
