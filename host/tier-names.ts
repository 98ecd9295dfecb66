// The names of the tiers, apart from what finds them (tier.ts), which takes system calls.

export const TIERS = ['T0', 'T1', 'T2', 'T3'] as const;
export type TierName = (typeof TIERS)[number];
