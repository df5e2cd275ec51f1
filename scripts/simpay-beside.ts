/** `npm start` with nothing configured: one simpay beside the server, so that paying by channel works on a fresh machine. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { DataDir } from "./data-dir.ts";
import { StartError } from "./start-error.ts";

export interface SimpayBeside {
  readonly url: string;
  readonly secret: string;
  stop(): Promise<void>;
}

/** Port 0: any free one, the same again at the next start. */
export async function startSimpayBeside(dataDir: DataDir, port: number): Promise<SimpayBeside> {
  const secret = dataDir.secret("simpay");
  const child = fork(fileURLToPath(new URL("../simpay/main.ts", import.meta.url)), {
    env: {
      SIMPAY_PORT: String(port),
      SIMPAY_DATA_DIR: join(dataDir.path, "simpay"),
      SIMPAY_SECRET: secret,
      SIMPAY_ADMIN_SECRET: dataDir.secret("simpay-admin"),
    },
    execArgv: [],
    // Out of our terminal's group: Ctrl-C is for us, and we stop it when nobody calls it any more. If we are killed, the channel
    // between us breaks and it leaves by itself.
    detached: true,
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const ended = once(child, "exit");
  const first = await Promise.race([once(child, "message") as Promise<[{ readonly port: number }]>, ended.then(() => undefined)]);
  if (!first) throw new StartError("simpay, which runs beside the server, did not start; the line above says why");
  const url = `http://127.0.0.1:${first[0].port}`;
  let stopping = false;
  void ended.then(() => {
    if (!stopping) process.stderr.write(`simpay at ${url} has ended; payments by simpay wait until the server is started again\n`);
  });
  return {
    url,
    secret,
    async stop() {
      stopping = true;
      if (child.connected) child.disconnect();
      await ended;
    },
  };
}
