/** `npm run check`: types, lint and format, as CI runs them. */
import { spawnSync } from "node:child_process";

const steps: readonly (readonly string[])[] = [
  ["tsc", "-p", "."],
  ["oxlint", "--type-aware", "--deny-warnings", "."],
  ["prettier", "--check", "--log-level=warn", "."],
];
for (const [command, ...args] of steps) {
  process.stdout.write(`${command} ${args.join(" ")}\n`);
  const { status } = spawnSync(command as string, args, { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
