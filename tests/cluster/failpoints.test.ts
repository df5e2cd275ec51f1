/** `npm start`, killed at every step of every path that money takes. Of the nodes of a cluster: failpoints.nodes.test.ts. */
import { killedAtEveryStep, OPERATORS, UNSENT } from "../support/failpoints.ts";
import { ALONE } from "../support/town.ts";

killedAtEveryStep({
  programs: ALONE,
  elsewhere: OPERATORS,
  unsent: {
    ...UNSENT,
    "jetstream/move-marks": "events over NATS: failpoints.nodes.test.ts",
    "jetstream/save": "events over NATS",
    "jetstream/settled": "events over NATS",
  },
  stepsMin: 100,
});
