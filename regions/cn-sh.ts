/** Shanghai. 五五购物节: on 5 May, by its own clock, groups are 5 % cheaper and buyers alone 2 %. */
import type { RegionPolicy } from "../domain/region/policy.ts";

const SHANGHAI = new Intl.DateTimeFormat("en-CA", { timeZone: "Asia/Shanghai", month: "2-digit", day: "2-digit" });
const isFestival = (now: Date): boolean => SHANGHAI.format(now) === "05-05";

export default {
  api: 1,
  region: "cn-sh",
  version: "1.0.0",
  // Ten times what a node of two cores sells: it cuts off what no shopper does.
  admission: () => ({ ordersPerSecond: 100_000 }),
  discount: ({ now }) => (isFestival(now) ? { aloneBps: 200, groupBps: 500 } : { aloneBps: 0, groupBps: 0 }),
  groups: () => ({ sizeMax: 100, ttlMinutesMin: 1, ttlMinutesMax: 43_200 }),
} satisfies RegionPolicy;
