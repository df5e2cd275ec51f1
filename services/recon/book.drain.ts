/** Differences of one shard: what is off goes to suspense, and comes back once it is explained. Their ids are the transfers' business keys. */
import { suspend, unsuspend } from "../../domain/recon/difference.ts";
import type { Work } from "../../mixins/drain.ts";
import { bookTransfers } from "../../mixins/ledger.ts";
import { lockDifferences, markBooked, markCleared, toDifference } from "./recon.store.ts";

export async function bookDrain(work: Work, commands: readonly { readonly ids: readonly string[] }[]): Promise<undefined[]> {
  const { shard } = work;
  const ids = [...new Set(commands.flatMap((command) => command.ids))];
  const rows = await lockDifferences(work, shard, ids);
  const opening = rows.filter((row) => row.state === "OPEN" && !row.booked);
  const clearing = rows.filter((row) => row.state === "CLEARING");
  await Promise.all([
    bookTransfers(work, [
      ...opening.flatMap((row) => suspend(toDifference(row))),
      ...clearing.filter(({ booked }) => booked).flatMap((row) => unsuspend(toDifference(row))),
    ]),
    markBooked(
      work,
      shard,
      opening.map(({ id }) => id),
    ),
    markCleared(
      work,
      shard,
      clearing.map(({ id }) => id),
      await work.now(),
    ),
  ]);
  return commands.map(() => undefined);
}
