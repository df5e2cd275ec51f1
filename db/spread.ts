/** Which slot something without an address of its own gets: names are spread over the sixteen by murmur3. Stored rows depend on it for ever. */
import murmurhash from "murmurhash";
import { SLOT_COUNT, USER_CITY, type Shard } from "../domain/ids.ts";

export const slotByHash = (text: string): number => murmurhash.v3(text) % SLOT_COUNT;

/** Where a user of that name lives, or would. */
export const shardOfName = (username: string): Shard => ({ city: USER_CITY, slot: slotByHash(username) });
