/** External channels: what they took is what was asked for, what they told has taken effect, and nothing stays between us and them. */
import { type Check, GRACE_SECONDS } from "./check.ts";
import { pairs } from "./settlements.ts";

export const CHANNEL_CHECKS: readonly Check[] = [
  {
    name: "channels.paid",
    scope: "city",
    proves:
      "a payment by channel is CONFIRMED exactly with the money that was asked for; other money made it FAILED, and an open one has none",
    statement: `
      select slot, id, order_id, state, amount, paid_amount, paid_currency, paid_at from payments
       where channel <> 'wallet'
         and case when state = 'CONFIRMED' then paid_at is null or (paid_amount, paid_currency) is distinct from (amount, 'CNY')
                  when state = 'FAILED' then (paid_amount, paid_currency) = (amount, 'CNY')
                  else paid_at is not null end`,
  },
  {
    name: "channels.callbacks",
    scope: "city",
    proves: `no callback waits ${GRACE_SECONDS} s after it came or for a person, and money that one told of is there`,
    statement: `
      select c.slot, c.id, c.channel, c.about, c.subject, c.state, c.attempts, c.error, c.received_at
        from channel_callbacks c
        left join payments p on p.slot = c.slot and p.id = c.subject and c.about = 'charge'
       where c.state = 'FAILED' or (c.state = 'KEPT' and c.received_at < now() - make_interval(secs => $1))
          or (c.about = 'charge' and c.news #>> '{charge,status}' = 'PAID' and p.paid_at is null
              and (c.state = 'DONE' or (c.state = 'RESOLVED' and p.id is not null)))`,
    values: [GRACE_SECONDS],
  },
  {
    name: "channels.clearing",
    scope: "city",
    proves: "what is in transit to channels is what refunds and payouts under way come to, and nothing when none is",
    statement: `
      select slot, account, a.balance, u.amount
        from (select slot, account, credits_posted - debits_posted as balance from accounts
               where account like 'refund\\_in\\_transit:%' or account = 'payout_in_transit') a
        full join (select slot, 'refund_in_transit:' || channel as account, sum(amount) as amount from refunds
                    where channel <> 'wallet' and decided_at is not null and state <> 'SUCCEEDED' group by slot, channel
                   union all
                   select slot, 'payout_in_transit', sum(amount) from payouts where state in ('REQUESTED', 'PROCESSING', 'UNKNOWN') group by slot) u
             using (slot, account)
       where coalesce(a.balance, 0) <> coalesce(u.amount, 0)`,
  },
  {
    name: "books.channels",
    scope: "city",
    proves: "a refund by channel has arrived exactly when it is posted to the channel, and money that was not asked for lies in suspense",
    statement: `
      ${pairs(`select slot, id::text as business_key, amount, 'refund_in_transit:' || channel as debit, 'channel:' || channel as credit from refunds where channel <> 'wallet' and state = 'SUCCEEDED'`, "refund-paid")}
      union all
      ${pairs(
        `select slot, id::text as business_key, paid_amount as amount, 'channel:' || channel || foreign_money as debit, 'suspense:long' || foreign_money as credit
           from (select *, case paid_currency when 'CNY' then '' else ':' || paid_currency end as foreign_money from payments) p
          where state = 'FAILED' and paid_amount > 0`,
        "pay-differs",
      )}`,
  },
];
