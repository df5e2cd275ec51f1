/** Beijing. 北京消费季: in the first week of September 3 % off for everybody; groups gather for two weeks at most, so that nobody's money waits longer. */
import type { RegionPolicy } from "../domain/region/policy.ts";

const BEIJING = new Intl.DateTimeFormat("en-CA", { timeZone: "Asia/Shanghai", month: "2-digit", day: "2-digit" });
const isSeason = (now: Date): boolean => /^09-0[1-7]$/.test(BEIJING.format(now));

export default {
  api: 1,
  region: "cn-bj",
  version: "1.0.0",
  admission: () => ({ ordersPerSecond: 60_000 }),
  discount: ({ now }) => (isSeason(now) ? { aloneBps: 300, groupBps: 300 } : { aloneBps: 0, groupBps: 0 }),
  groups: () => ({ sizeMax: 100, ttlMinutesMin: 5, ttlMinutesMax: 20_160 }),
} satisfies RegionPolicy;
