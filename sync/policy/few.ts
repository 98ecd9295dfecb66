// Sets that mostly hold one thing: that thing itself stands for them, since an empty Set takes some
// 200 bytes and there are 100,000 of these.

/** Nothing, one thing or several. Things are objects, but no Sets. */
export type Few<T extends object> = T | Set<T> | null;


export function countOf<T extends object>(few: Few<T>): number {
  if (few === null) return 0;
  return few instanceof Set ? few.size : 1;
}

/** The things, in the order in which they came. */
export function each<T extends object>(few: Few<T>): Iterable<T> {
  if (few === null) return NONE;
  return few instanceof Set ? few : [few];
}

export function withOne<T extends object>(few: Few<T>, item: T): Few<T> {
  if (few === null || few === item) return item;
  return few instanceof Set ? few.add(item) : new Set([few, item]);
}

export function withoutOne<T extends object>(few: Few<T>, item: T): Few<T> {
  if (!(few instanceof Set)) return few === item ? null : few;
  few.delete(item);
  if (few.size > 1) return few;
  for (const last of few) return last;
  return null;
}

/** Adds to one of the sets in a map. */
export function addTo<K, T extends object>(map: Map<K, Few<T>>, key: K, item: T): void {
  map.set(key, withOne(map.get(key) ?? null, item));
}

/** Takes out of one of the sets in a map. */
export function takeFrom<K, T extends object>(map: Map<K, Few<T>>, key: K, item: T): void {
  const few = withoutOne(map.get(key) ?? null, item);
  if (few === null) map.delete(key);
  else map.set(key, few);
}

const NONE: readonly never[] = [];
