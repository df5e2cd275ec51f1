/** The bus between the nodes of a cluster: NATS, with who we are and whom we trust. */
import { readFileSync } from "node:fs";
import type { Middleware } from "moleculer";
import { credsAuthenticator, nkeyAuthenticator, type ConnectionOptions } from "nats";

export interface NatsSettings {
  /** `host:port`; any of them will do, the others of their cluster are learnt. */
  readonly servers: readonly string[];
  readonly user?: string;
  readonly pass?: string;
  /** Path of a credentials file (JWT and seed) or of an nkey seed. */
  readonly credsFile?: string;
  /** Path of the CA that signed the servers' certificate; set, the connection must be TLS. */
  readonly caFile?: string;
}

/** A server that restarts is back within a second or two. */
const RECONNECT_WAIT_MS = 500;
/** A connection that answers no ping twice is dead: half-open sockets look alive for minutes. */
const PING_MS = 5_000;
const PINGS_OUT_MAX = 2;

/** For `nats.connect`, and for Moleculer's transporter, which hands them on. */
export function natsOptions(settings: NatsSettings, name: string): ConnectionOptions {
  const { servers, user, pass, credsFile, caFile } = settings;
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
    ...(caFile === undefined ? {} : { tls: { caFile } }),
  };
}

/** A credentials file holds a JWT in armour; an nkey seed of a user is one line that begins with SU. */
function authenticatorOf(file: Buffer): NonNullable<Exclude<ConnectionOptions["authenticator"], readonly unknown[]>> {
  const text = file.toString("utf8").trim();
  return text.startsWith("SU") ? nkeyAuthenticator(new TextEncoder().encode(text)) : credsAuthenticator(new Uint8Array(file));
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
