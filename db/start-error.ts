/**
 * What keeps the program from starting and is the user's to repair: a taken port, a full disk, a wrong variable.
 * The entry point prints the message and exits 1; a stack would only hide the sentence. One line, always: messages of
 * the operating system and of PostgreSQL that end up inside it are folded.
 */
export class StartError extends Error {
  override readonly name = "StartError";

  constructor(message: string, options?: ErrorOptions) {
    super(message.replace(/\s+/g, " ").trim(), options);
  }
}
