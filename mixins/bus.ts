/** The bus between the nodes of a cluster: NATS, with who we are and whom we trust. */
import { readFileSync } from "node:fs";
import { Errors, Transporters, type ActionSchema, type Context, type Middleware } from "moleculer";
import { credsAuthenticator, Events, nkeyAuthenticator, type ConnectionOptions, type NatsConnection } from "nats";
import type { NodeMetadata } from "./cluster.ts";

export interface NatsSettings {
  /** `host:port`; any of them will do, the others of their cluster are learnt. */
  readonly servers: readonly string[];
  readonly user?: string;
  readonly pass?: string;
  /** Path of a credentials file (JWT and seed) or of an nkey seed. */
  readonly credsFile?: string;
  /** The connection must be TLS, also if the server does not ask for it; a server without it is told no password. */
  readonly tls?: boolean;
  /** Path of the CA that signed the servers' certificate, if it is none that everybody knows; set, the connection must be TLS. */
  readonly caFile?: string;
}

/** A server that restarts is back within a second or two. */
const RECONNECT_WAIT_MS = 500;
/** A connection that answers no ping twice is dead: half-open sockets look alive for minutes. */
const PING_MS = 5_000;
const PINGS_OUT_MAX = 2;

/** For `nats.connect`, and for Moleculer's transporter, which hands them on. */
export function natsOptions(settings: NatsSettings, name: string): ConnectionOptions {
  const { servers, user, pass, credsFile, tls = false, caFile } = settings;
  return {
    servers: [...servers],
    name,
    // For ever: a node without its bus has nothing better to do.
    maxReconnectAttempts: -1,
    reconnectTimeWait: RECONNECT_WAIT_MS,
    pingInterval: PING_MS,
    maxPingOut: PINGS_OUT_MAX,
    ...(user === undefined ? {} : { user, pass: pass ?? "" }),
    ...(credsFile === undefined ? {} : { authenticator: authenticatorOf(readFileSync(credsFile)) }),
    ...(tls || caFile !== undefined ? { tls: caFile === undefined ? {} : { caFile } } : {}),
  };
}

/** A credentials file holds a JWT in armour; an nkey seed of a user is one line that begins with SU. */
function authenticatorOf(file: Buffer): NonNullable<Exclude<ConnectionOptions["authenticator"], readonly unknown[]>> {
  const text = file.toString("utf8").trim();
  return text.startsWith("SU") ? nkeyAuthenticator(new TextEncoder().encode(text)) : credsAuthenticator(new Uint8Array(file));
}

/**
 * Moleculer's transporter, which takes no notice of a broken connection: the client connects again, and what was sent or is sent meanwhile is lost in
 * silence, so that each call waits for its timeout. This one tells them at once. What was under way has an unknown outcome, as when its node dies; what
 * comes while there is no connection is not sent, as to a node that leaves (`again.ts` knows what may be done about either).
 */
export class Bus extends Transporters.NATS {
  #isAway = false;

  constructor(settings: NatsSettings, name: string) {
    super(natsOptions(settings, name));
  }

  override onConnected(wasReconnect?: boolean): Promise<void> {
    void this.#listen(this.client as NatsConnection);
    return super.onConnected(wasReconnect) as Promise<void>;
  }

  /** Of a bus that is away nobody hears what is left to say, and waiting for that left a client that connects again and takes calls for a node that has stopped. */
  override disconnect(): Promise<void> {
    return this.#isAway ? (this.client as NatsConnection).close() : super.disconnect();
  }

  async #listen(client: NatsConnection): Promise<void> {
    for await (const { type } of client.status()) {
      if (type === Events.Disconnect) this.#lost();
      // Before it, each attempt that failed was a disconnect of its own.
      else if (type === Events.Reconnect && this.#isAway)
        this.#back().catch((error: unknown) => this.logger.warn("the others were not told of the new connection", error));
    }
  }

  #lost(): void {
    if (!this.#isAway) this.logger.warn("the bus is away: calls to other nodes fail until it is back");
    this.#isAway = true;
    const { nodes } = this.broker.registry;
    for (const { id, local } of nodes.toArray()) if (!local) this.transit.removePendingRequestByNodeID(id);
  }

  /** The others are told that this is another connection: those of their calls that were lost on the way here, or whose answers were, are over too. */
  async #back(): Promise<void> {
    this.#isAway = false;
    this.logger.warn("the bus is back");
    (this.broker.metadata as NodeMetadata).connection++;
    this.broker.registry.regenerateLocalRawInfo(true);
    await this.transit.discoverer.sendLocalNodeInfo();
    await this.transit.discoverer.discoverAllNodes();
  }

  /** Not where packets are sent: Moleculer logs each one that could not be. */
  readonly refusal = {
    name: "Bus",
    remoteAction:
      (next: (ctx: Context) => Promise<unknown>, { name = "" }: ActionSchema) =>
      (ctx: Context): Promise<unknown> =>
        this.#isAway ? Promise.reject(new Errors.ServiceNotAvailableError({ action: name, nodeID: ctx.nodeID ?? "" })) : next(ctx),
  } as unknown as Middleware;
}

/**
 * An answer carries no meta: Moleculer sends a call's meta back with it, to be laid over the caller's, which is a third of an answer's bytes for
 * nothing. What a service set there would show up in calls that have nothing to do with it.
 */
export const oneWayMeta = {
  name: "OneWayMeta",
  transitPublish:
    (next: (packet: Sent) => Promise<void>) =>
    (packet: Sent): Promise<void> => {
      if (packet.type === "RES") packet.payload.meta = undefined;
      return next(packet);
    },
} as unknown as Middleware;

interface Sent {
  readonly type: string;
  readonly payload: { meta?: unknown };
}
