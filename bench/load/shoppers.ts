/** Who shops: made-up consumers whose tokens the bench signs itself, because nobody registers tens of thousands of people to measure orders. */
import { composeId, type Id, mintedAtMs } from "../../domain/ids.ts";
import { makeTokens } from "../../mixins/tokens.ts";

/** Longer than any run. */
const TOKEN_SECONDS = 6 * 3_600;
/** Any time after 2025 will do; a second for each thousand people keeps their ids apart. */
const BORN_MS = 1_760_000_000_000;

/** The n-th consumer: an id of the user keyspace, slots in turn. */
export const shopperId = (n: number): Id<"user"> => composeId({ ms: BORN_MS + n, sequence: 7, city: 0, slot: n % 16 }) as Id<"user">;

/** `Authorization` header lines of consumers 0 … count-1. */
export async function shopperHeaders(jwtSecret: string, count: number): Promise<string[]> {
  const tokens = makeTokens(jwtSecret);
  const headers: string[] = [];
  for (let n = 0; n < count; n++) {
    const token = await tokens.sign({ userId: shopperId(n), username: `bench-${n}`, roles: ["consumer"] }, TOKEN_SECONDS);
    headers.push(`Authorization: Bearer ${token}\r\n`);
  }
  return headers;
}

/** Which shopper an id is. */
export const shopperNumber = (id: string): number => mintedAtMs(id) - BORN_MS;
