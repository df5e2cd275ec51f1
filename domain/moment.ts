/** More than a batch and the answers to it have. */
const TEXTS_MAX = 64;
const texts = new Map<number, string>();

/**
 * A moment as JSON and PostgreSQL have it (ISO 8601, UTC, milliseconds). The rows of a batch share their moments, and are written out and answered one behind
 * the other: looked up each takes 0.05 µs for 0.4. RangeError for a date that is no moment.
 */
export function isoText(at: Date): string {
  const known = texts.get(at.getTime());
  if (known !== undefined) return known;
  const text = at.toISOString();
  if (texts.size === TEXTS_MAX) texts.clear();
  texts.set(at.getTime(), text);
  return text;
}
