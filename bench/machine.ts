/** On what a result was measured, so that nobody compares it with another machine's by accident. */
import { closeSync, fdatasyncSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from "node:fs";
import { availableParallelism, cpus, release, totalmem, type } from "node:os";
import { join } from "node:path";

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly system: string;
  readonly fileSystem: string;
}

/** Of statfs(2). On tmpfs an fsync costs nothing, and a durable order is not durable. */
const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  0xef53: "ext4",
  0x58465342: "xfs",
  0x9123683e: "btrfs",
  0x01021994: "tmpfs",
  0x794c7630: "overlayfs",
  0x2fc12fc1: "zfs",
};

export const machineOf = (directory: string): Machine => ({
  cpu: cpus()[0]?.model ?? "unknown",
  cores: availableParallelism(),
  memoryGb: Math.round(totalmem() / 2 ** 30),
  system: `${type()} ${release()}`,
  fileSystem: FILE_SYSTEMS[statfsSync(directory).type] ?? `0x${statfsSync(directory).type.toString(16)}`,
});

export const nodeVersion = process.version;

export function packageVersions(root: string): Record<string, string> {
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { dependencies: Record<string, string> };
  return { moleculer: dependencies["moleculer"] ?? "", "moleculer-web": dependencies["moleculer-web"] ?? "", pg: dependencies["pg"] ?? "" };
}

/** Microseconds of one 8 kB write with fdatasync, the median of 200: what a commit waits for at least. */
export function fsyncMicroseconds(directory: string): number {
  const path = join(directory, "fsync-probe");
  const file = openSync(path, "w");
  const page = Buffer.alloc(8_192, 1);
  try {
    const times = Array.from({ length: 200 }, (_, at) => {
      const startedMs = performance.now();
      // Within 16 MB, over and over, as a log's segment is written.
      writeSync(file, page, 0, page.length, (at % 2_048) * page.length);
      fdatasyncSync(file);
      return performance.now() - startedMs;
    });
    return Math.round((times.toSorted((a, b) => a - b)[100] ?? 0) * 1_000);
  } finally {
    closeSync(file);
    rmSync(path);
  }
}
