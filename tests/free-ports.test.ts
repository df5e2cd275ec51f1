import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { freePorts } from "../scripts/free-ports.ts";

const LENT = "/proc/sys/net/ipv4/ip_local_port_range";

test("free ports are different ones, and none that the kernel lends to whoever connects", async () => {
  const ports = await freePorts(50);
  assert.equal(new Set(ports).size, 50);
  const [low = 0, high = 0] = existsSync(LENT) ? readFileSync(LENT, "utf8").split(/\s+/).map(Number) : [];
  assert.deepEqual(
    ports.filter((port) => port >= low && port <= high),
    [],
  );
});
