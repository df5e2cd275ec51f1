/** A way to a server that can fall silent: connections stay, new ones are taken, and nothing gets through either way, as in a network that is cut. */
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { once } from "node:events";

export class SilentProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #silent = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(to: number): Promise<SilentProxy> {
    const server = createServer();
    const proxy = new SilentProxy(server);
    server.on("connection", (near) => {
      const far = connect(to, "127.0.0.1");
      for (const [from, other] of [
        [near, far],
        [far, near],
      ] as const) {
        proxy.#sockets.add(from);
        from.on("data", (data) => void other.write(data));
        if (proxy.#silent) from.pause();
        from.on("close", () => {
          proxy.#sockets.delete(from);
          other.destroy();
        });
        from.on("error", () => other.destroy());
      }
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  cut(): void {
    this.#silent = true;
    for (const socket of this.#sockets) socket.pause();
  }

  mend(): void {
    this.#silent = false;
    for (const socket of this.#sockets) socket.resume();
  }

  /** Of every connection both ends are told; new ones are taken. */
  break(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.break();
    this.#server.close();
    await once(this.#server, "close");
  }
}
