/**
 * `npm start`, `npm test` and the others: installs the dependencies when they do not match the lock file, then runs the
 * asked program with the Node of the npm package `node` (moleculer needs 22, type stripping 22.18; a machine may have
 * less). Built-ins alone, and in this file nothing that an old Node cannot parse, so that it can still say it is too old.
 */
const COMMANDS = {
  start: ["scripts/start.ts"],
  cluster: ["scripts/cluster.ts"],
  test: ["scripts/test.ts"],
  "test:cluster": ["scripts/test.ts", "--cluster"],
  demo: ["demo/main.ts"],
  bench: ["bench/main.ts"],
  simpay: ["simpay/main.ts"],
  shards: ["scripts/shards.ts"],
  repl: ["scripts/repl.ts"],
  check: ["scripts/check.ts"],
  search: ["scripts/search.ts"],
  verify: ["scripts/verify.ts"],
  "verify-chain": ["scripts/verify-chain.ts"],
};

const NODE_MAJOR_MIN = 20;

if (Number(process.versions.node.split(".")[0]) < NODE_MAJOR_MIN) {
  console.error("Node " + process.versions.node + " is too old: " + NODE_MAJOR_MIN + " or newer is needed");
  process.exit(1);
}

void import("./launch.mjs").then(function (launch) {
  return launch.main(COMMANDS, process.argv.slice(2));
});
