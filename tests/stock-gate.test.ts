import { describe } from "node:test";
import { LocalStockGate } from "../mixins/stock-gate.ts";
import { stockGateConformance } from "./support/stock-gate.ts";

describe("the stock gate of one process", () => {
  const gate = new LocalStockGate();
  stockGateConformance(() => gate);
});
