/**
 * The nodes of a cluster (one of each role, with NATS, JetStream and Redis between them), killed at every step of every path that money takes, each
 * while the others live or are just being started again. Of everything in one process: failpoints.test.ts.
 */
import { killedAtEveryStep, OPERATORS, UNSENT } from "../support/failpoints.ts";
import { CLUSTER } from "../support/town.ts";

killedAtEveryStep({
  programs: CLUSTER,
  elsewhere: [
    ...OPERATORS,
    [/^jobs: \w+ call simpay\./, "no channel is called there"],
    [/^gateway: \w+ call simpay\.(charge|close|refund|payout)$/, "reconciliation asks, and orders nothing"],
    [/^(gateway|worker): \w+ publish events$/, "relays are on jobs nodes"],
    [/: after ask (deal\.get|order\.(get|list)|payment\.refundsOf|voucher\.ofOrder|wallet\.get)$/, "only reads"],
    [/: after ask (ops\.verify|routing\.tell)$/, "no money is on it: a check of the test's own; where slots live, told on every start"],
  ],
  unsent: { ...UNSENT, "jetstream/settled": "of slots that have come from another database: tests/cluster/shards.*" },
  stepsMin: 130,
});
