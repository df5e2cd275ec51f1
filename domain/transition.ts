/** A state machine is a table: from a state, on an event, to a state. Whatever is not in it is refused, here and by the `where` in SQL. */
export type Transitions<S extends string, E extends string> = { readonly [From in S]: { readonly [On in E]?: S } };

/** States that cannot be reached from the first one. A dangling name cannot compile; an orphan lands here, and in a failing test. */
export function unreachableStates<S extends string, E extends string>(table: Transitions<S, E>, initial: S): S[] {
  const seen = new Set<S>([initial]);
  for (const from of seen) for (const to of Object.values<S | undefined>(table[from])) if (to) seen.add(to);
  return (Object.keys(table) as S[]).filter((state) => !seen.has(state));
}

/** The state after `event`, or undefined where the table has no such arrow. */
export const next = <S extends string, E extends string>(table: Transitions<S, E>, from: S, event: E): S | undefined => table[from][event];

/** Every (from, to) pair the table allows: what the history check of `/ops/verify` compares recorded events with. */
export const arrows = <S extends string, E extends string>(table: Transitions<S, E>): [S, S][] =>
  (Object.keys(table) as S[]).flatMap((from) =>
    Object.values<S | undefined>(table[from]).flatMap((to): [S, S][] => (to ? [[from, to]] : [])),
  );
