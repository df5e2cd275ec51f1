/** The guards in the database itself: a constraint, index or trigger that somebody dropped "for a moment" shows here, before it is missed. */
import type { Check } from "./check.ts";

const EVERYWHERE = {
  constraints: ["accounts_floor"],
  uniqueIndexes: ["transfers_business_key", "transfers_pkey", "transfers_pending"],
} as const;
const IN_CITIES = {
  constraints: [
    ...EVERYWHERE.constraints,
    "accounts_overdrawn",
    "stock_not_oversold",
    "orders_check",
    "quotas_within_cap",
    "groups_not_overfull",
    "payments_state_check",
    "payments_paid",
  ],
  uniqueIndexes: [
    ...EVERYWHERE.uniqueIndexes,
    "orders_idem_key",
    "seats_one_a_user",
    "payments_one_live",
    "vouchers_code",
    "vouchers_order",
    "settlements_voucher",
    "channel_callbacks_once",
  ],
} as const;
const AT_USERS = { constraints: EVERYWHERE.constraints, uniqueIndexes: [...EVERYWHERE.uniqueIndexes, "users_username"] } as const;

/** Each guard on the partitioned table, where it binds all partitions; triggers are copied to partitions and each copy can be disabled. */
const MISSING = `
  select guard, 'constraint' as kind from unnest($1::text[]) guard
   where not exists (select from pg_constraint c join pg_class t on t.oid = c.conrelid
                      where c.conname = guard and c.convalidated and t.relkind = 'p')
  union all
  select guard, 'unique index' from unnest($2::text[]) guard
   where not exists (select from pg_index i where i.indexrelid = to_regclass(guard) and i.indisunique and i.indisvalid)
  union all
  select t.relname, 'append-only trigger' from (select name, ('public.' || name)::regclass as parent from unnest($3::text[]) name) p, pg_class t
   where t.oid in (select p.parent union all select inhrelid from pg_inherits where inhparent = p.parent)
     and not exists (select from pg_trigger g where g.tgrelid = t.oid and g.tgname = p.name || '_append_only' and g.tgenabled in ('O', 'A'))`;

export const GUARD_CHECKS: readonly Check[] = [
  {
    name: "guards.city",
    scope: "city",
    proves: "the constraints, unique indexes and triggers that guard stock, orders, payments, settlements and the books are in place",
    statement: MISSING,
    values: [IN_CITIES.constraints, IN_CITIES.uniqueIndexes, ["transfers", "redemptions"]],
  },
  {
    name: "guards.user",
    scope: "user",
    proves: "the constraints, unique indexes and triggers that guard wallets are in place",
    statement: MISSING,
    values: [AT_USERS.constraints, AT_USERS.uniqueIndexes, ["transfers"]],
  },
];
