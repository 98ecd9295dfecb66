// Who claims which prefix of a table. Two owners may claim the same one (a duplicate podCIDR, an
// address in two nodes' lists): the first keeps it, the second is told and waits.

import { prefixKey, prefixText } from './address.ts';
import type { Route } from './model.ts';
import type { PrefixTable } from './tables/prefix.ts';

/** A claim that `yields` gives way to any other of its prefix, and neither owner is told. */
export interface Claim extends Route {
  nextHop: number;
  yields?: true;
}

interface OwnedClaim extends Claim {
  owner: string;
}

export class ClaimTable {
  readonly table: PrefixTable;
  #claims = new Map<string, OwnedClaim[]>();
  #byOwner = new Map<string, Set<string>>();
  /** What owners want of what they hold, where that changed since the last settle(). */
  #unsettled = new Map<string, Set<string>>();
  /** Prefixes that more than one owner claims. */
  #contested = new Set<string>();

  constructor(table: PrefixTable) {
    this.table = table;
  }

  /** Makes `claims` all that the owner claims here. It holds what it claimed before until settle(),
   * so that a prefix that moves to another owner is never without a route. Throws TableFullError;
   * the claims made until then stand, and those it had before too. */
  claim(owner: string, claims: Claim[]): void {
    const held = this.#byOwner.get(owner) ?? new Set<string>();
    const wanted = new Set<string>();
    this.#unsettled.delete(owner);
    for (const claim of claims) {
      const prefix = prefixText(prefixKey(claim.prefix));
      this.#stake({ ...claim, prefix, owner });
      wanted.add(prefix);
      this.#byOwner.set(owner, held.add(prefix));
    }
    this.#unsettled.set(owner, wanted);
  }

  /** Has every owner give up what it no longer claims. */
  settle(): void {
    for (const [owner, wanted] of this.#unsettled) {
      const held = this.#byOwner.get(owner) ?? new Set<string>();
      for (const prefix of held) {
        if (wanted.has(prefix)) continue;
        this.#giveUp(prefix, owner);
        held.delete(prefix);
      }
      if (held.size === 0) this.#byOwner.delete(owner);
      this.#unsettled.delete(owner);
    }
  }

  /** A line for each claim that waits for another owner's to go. */
  conflicts(): string[] {
    return [...this.#contested].flatMap((prefix) => {
      const [holder, ...waiting] = this.#claims.get(prefix) ?? [];
      const told = waiting.filter((claim) => claim.yields !== true);
      return told.map(({ owner }) => `${prefix} of ${owner} is kept by ${holder?.owner ?? ''}`);
    });
  }

  /** Who holds exactly this prefix, the configuration's routes aside; null where nobody does. */
  claimantOf(prefix: string): string | null {
    return this.#claims.get(prefixText(prefixKey(prefix)))?.[0]?.owner ?? null;
  }

  inForce(): Route[] {
    return [...this.#claims.values()].flatMap(([claim]) =>
      claim === undefined ? [] : [{ prefix: claim.prefix, kind: claim.kind, via: claim.via }]);
  }

  /** The longest match, asked of the core, then named. */
  lookUp(address: string): Route | null {
    const nextHop = this.table.find(address);
    const key = prefixKey(`${address}/${address.includes(':') ? 128 : 32}`);
    for (let length = key.length; length >= 0; length -= 1) {
      const prefix = prefixText(prefixKey(`${address}/${length}`));
      const claim = this.#claims.get(prefix)?.[0];
      if (claim?.nextHop === nextHop) return { prefix, kind: claim.kind, via: claim.via };
    }
    return null;
  }

  /** Adds or replaces the owner's claim. */
  #stake(claim: OwnedClaim): void {
    const claims = this.#claims.get(claim.prefix) ?? [];
    const mine = claims.findIndex(({ owner }) => owner === claim.owner);
    const isFirst = mine < 0 && claims[0]?.yields === true && claim.yields !== true;
    const place = isFirst ? 0 : mine < 0 ? claims.length : mine;
    if (place === 0 && claims[0]?.nextHop !== claim.nextHop) {
      this.table.insert(prefixKey(claim.prefix), claim.nextHop);
    }
    claims.splice(place, isFirst ? 0 : 1, claim);
    this.#claims.set(claim.prefix, claims);
    if (claims.length > 1) this.#contested.add(claim.prefix);
  }

  #giveUp(prefix: string, owner: string): void {
    const claims = this.#claims.get(prefix) ?? [];
    const left = claims.filter((claim) => claim.owner !== owner);
    const [heir] = left;
    if (heir === undefined) {
      this.table.remove(prefixKey(prefix));
      this.#claims.delete(prefix);
    } else {
      if (claims[0] !== heir) this.table.insert(prefixKey(prefix), heir.nextHop);
      this.#claims.set(prefix, left);
    }
    if (left.length < 2) this.#contested.delete(prefix);
  }
}
