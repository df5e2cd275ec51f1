/** Which slot something without an address of its own gets: names are spread over the sixteen by murmur3. Stored rows depend on it for ever. */
import murmurhash from "murmurhash";
import { SLOT_COUNT } from "../domain/ids.ts";

export const slotByHash = (text: string): number => murmurhash.v3(text) % SLOT_COUNT;
