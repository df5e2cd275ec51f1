/** A field of a request that breaks a rule its schema cannot state. */
export interface FieldFault {
  readonly field: string;
  readonly message: string;
}

/** PostgreSQL's text holds every character but NUL; a NUL in a title is garbage or an attack, never a word. */
export const nulFaults = (fields: Readonly<Record<string, string | undefined>>): FieldFault[] =>
  Object.entries(fields)
    .filter(([, text]) => text?.includes("\0"))
    .map(([field]) => ({ field, message: "a text without NUL characters" }));
