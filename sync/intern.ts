// Equal texts as one: labels and names come again and again with every object, and parsing makes
// each of them anew. Only texts that were met lately are known; others are just not shared.

const TEXT_LIMIT = 65_536;
const LENGTH_LIMIT = 64;

const texts = new Map<string, string>();

/** The same text, perhaps one that was there before. */
export function intern(text: string): string {
  if (text.length > LENGTH_LIMIT) return text;
  const known = texts.get(text);
  if (known !== undefined) return known;
  if (texts.size >= TEXT_LIMIT) texts.clear();
  texts.set(text, text);
  return text;
}

const PART_LIMIT = 4096;
const parts = new Map<string, string>();

/** The same for longer texts, of which there are fewer: policies of many namespaces are alike. */
export function internPart(text: string): string {
  const known = parts.get(text);
  if (known !== undefined) return known;
  if (parts.size >= PART_LIMIT) parts.clear();
  parts.set(text, text);
  return text;
}

const VALUE_LIMIT = 8192;
const values = new Map<string, unknown>();

/** An equal value, perhaps one that was there before. Precondition: it is plain data that nobody
 * changes. */
export function internValue<T>(value: T): T {
  const text = JSON.stringify(value);
  const known = values.get(text);
  if (known !== undefined) return known as T;
  if (values.size >= VALUE_LIMIT) values.clear();
  values.set(text, value);
  return value;
}

/** Forgets which texts and values were met: after many objects, few are going to come. */
export function forgetInterned(): void {
  for (const known of [texts, parts, values]) known.clear();
}
