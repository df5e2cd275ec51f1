import { Errors } from "moleculer";
import { DomainError } from "../domain/error.ts";

/** Moleculer rebuilds only its own classes after a hop; this puts ours back, so that `instanceof` holds on both sides of the wire. */
export class DomainErrorRegenerator extends Errors.Regenerator {
  override restoreCustomError(plain: Errors.PlainMoleculerError): Error {
    // `undefined` says "not mine"; the base class's type does not allow for it.
    return plain.name === "DomainError" ? new DomainError(plain) : (undefined as never);
  }
}
