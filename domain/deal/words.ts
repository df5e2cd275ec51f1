/**
 * Words of deals and of what people search for. PostgreSQL's parsers do not cut Chinese, so the words are cut here, and stored and asked for
 * as finished lexemes: no parser of the database, and no syntax in a search text, has a say.
 *
 * Chinese (Japanese, Korean) is indexed as single characters and pairs of neighbours, so that a part of a word is found whatever the
 * dictionary thinks: 龙虾 in 小龙虾. What is searched for is cut into words by Intl.Segmenter, so that 上海精酿 finds texts with 上海 and 精酿 in
 * them, not only side by side; each word is then its pairs. Characters the dictionary leaves alone stay with their neighbours: 精酿 is younger
 * than the dictionary, and is 精 and 酿 to it. Everything else is words, found by their beginnings: `brew` in "brewery".
 */

const RUNS =
  /([\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}ー々]+)|([^\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}ー々]+)/gu;
const segmenter = new Intl.Segmenter("zh", { granularity: "word" });

/** A word is searched by at most its first 40 characters, so that no lexeme comes near PostgreSQL's 2 KB. */
const WORD_CHARS_MAX = 40;
/** Lexemes of one search: each costs an index look-up. A search text of 200 characters rarely has half of them. */
const QUERY_LEXEMES_MAX = 32;
/** PostgreSQL's own limits on a tsvector: the largest position, and positions kept of one lexeme. */
const POSITION_MAX = 16_383;
const POSITIONS_MAX = 255;

/** Full-width and half-width, upper and lower case, with and without accents are the same to a searcher. */
const fold = (text: string): string => text.normalize("NFKD").replace(/\p{M}/gu, "").normalize("NFKC").toLowerCase();

const cut = (text: string): string[] => {
  const words: string[] = [];
  for (const { segment, isWordLike } of segmenter.segment(text)) if (isWordLike) words.push([...segment].slice(0, WORD_CHARS_MAX).join(""));
  return words;
};

/** Dictionary words of a run without spaces; single characters in a row are taken for one word. */
function cutDense(run: string): string[] {
  const words: string[] = [];
  let afterSingle = false;
  for (const { segment } of segmenter.segment(run)) {
    const single = [...segment].length === 1;
    if (single && afterSingle) words.push((words.pop() ?? "") + segment);
    else words.push(segment);
    afterSingle = single;
  }
  return words;
}

const pairs = (characters: readonly string[]): string[] =>
  characters.slice(1).map((character, index) => (characters[index] ?? "") + character);

/** What is stored of a text, in its order. */
export function lexemesOf(text: string): string[] {
  const lexemes: string[] = [];
  for (const [, dense, spaced] of fold(text).matchAll(RUNS)) {
    if (dense !== undefined) {
      const characters = [...dense];
      for (const [index, character] of characters.entries()) {
        lexemes.push(character);
        const neighbour = characters[index + 1];
        if (neighbour !== undefined) lexemes.push(character + neighbour);
      }
    } else if (spaced !== undefined) lexemes.push(...cut(spaced));
  }
  return lexemes;
}

const quote = (lexeme: string): string => `'${lexeme.replace(/['\\]/g, "$&$&")}'`;

/** A deal's `tsvector`, written out: title and merchant weigh more (A) than the description (B). */
export function dealVector(deal: { readonly title: string; readonly merchantName: string; readonly description: string }): string {
  const positions = new Map<string, string[]>();
  let position = 0;
  const add = (text: string, weight: "A" | "B"): void => {
    for (const lexeme of lexemesOf(text)) {
      position = Math.min(position + 1, POSITION_MAX);
      const known = positions.get(lexeme);
      if (!known) positions.set(lexeme, [`${position}${weight}`]);
      else if (known.length < POSITIONS_MAX) known.push(`${position}${weight}`);
    }
  };
  add(deal.title, "A");
  add(deal.merchantName, "A");
  add(deal.description, "B");
  return [...positions].map(([lexeme, at]) => `${quote(lexeme)}:${at.join(",")}`).join(" ");
}

/** What a text must have to be found: a lexeme, or a word that begins so. */
export interface Term {
  readonly lexeme: string;
  readonly beginning: boolean;
}

/** The terms of a search text: all of its words. Undefined where there is no word in it, so that nothing can match. */
export function searchTerms(text: string): readonly Term[] | undefined {
  const terms = new Map<string, Term>();
  const add = (lexeme: string, beginning: boolean): void => void terms.set(`${beginning} ${lexeme}`, { lexeme, beginning });
  for (const [, dense, spaced] of fold(text).matchAll(RUNS)) {
    if (spaced !== undefined) for (const word of cut(spaced)) add(word, true);
    if (dense !== undefined)
      for (const word of cutDense(dense)) {
        const characters = [...word];
        for (const part of characters.length === 1 ? characters : pairs(characters)) add(part, false);
      }
  }
  return terms.size === 0 ? undefined : [...terms.values()].slice(0, QUERY_LEXEMES_MAX);
}

/** Terms as a `tsquery`, written out. */
export const queryOf = (terms: readonly Term[]): string =>
  terms.map(({ lexeme, beginning }) => quote(lexeme) + (beginning ? ":*" : "")).join(" & ");
