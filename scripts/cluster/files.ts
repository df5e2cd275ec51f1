/** What the servers of a cluster on one machine are told: their configuration, written anew at each start. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isIPv6 } from "node:net";
import { parse, stringify } from "yaml";
import type { NatsSettings } from "../../mixins/bus.ts";
import type { Certificates } from "./certificates.ts";

const write = (path: string, text: string): string => {
  writeFileSync(path, text, { mode: 0o600 });
  return path;
};
const folder = (path: string): string => {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  return path;
};

/** One account of our own, whose only user has the password; JetStream on disk. */
export function natsFile(dataDir: string, port: number, password: string): string {
  const directory = folder(join(dataDir, "nats"));
  return write(
    join(directory, "nats.conf"),
    `server_name: tuanbar
listen: "127.0.0.1:${port}"
jetstream { store_dir: ${JSON.stringify(join(directory, "jetstream"))} }
accounts {
  TUANBAR { jetstream: enabled, users: [ { user: "tuanbar", password: ${JSON.stringify(password)} } ] }
}
`,
  );
}

/** Where that server is to be found, for a second terminal. */
export function natsOf(dataDir: string): NatsSettings {
  const [, port = ""] = /:(\d+)"/.exec(readFileSync(join(dataDir, "nats", "nats.conf"), "utf8")) ?? [];
  return { servers: [`127.0.0.1:${port}`], user: "tuanbar", pass: readFileSync(join(dataDir, "secrets", "nats"), "utf8").trim() };
}

/** Everything in it can be made anew from PostgreSQL, so a second may be lost. */
export function redisFile(dataDir: string, port: number, password: string): string {
  const directory = folder(join(dataDir, "redis"));
  return write(
    join(directory, "redis.conf"),
    `bind 127.0.0.1
port ${port}
requirepass ${password}
dir ${JSON.stringify(directory)}
appendonly yes
appendfsync everysec
save ""
daemonize no
`,
  );
}

/** The routing table of the project with URLs instead of names: `urlOf` knows which server has which database. */
export function keyspacesFile(dataDir: string, from: string, urlOf: (keyspace: string, database: string) => string): string {
  const table = parse(readFileSync(from, "utf8")) as { keyspaces: Record<string, { databases: Record<string, unknown> }> };
  const keyspaces = Object.fromEntries(
    Object.entries(table.keyspaces).map(([code, keyspace]) => [
      code,
      {
        ...keyspace,
        databases: Object.fromEntries(Object.entries(keyspace.databases).map(([name, slots]) => [urlOf(code, name), slots])),
      },
    ]),
  );
  return write(join(dataDir, "keyspaces.yaml"), stringify({ keyspaces }));
}

/** As the gateway would say it. */
const problem = (code: string, title: string, status: number, detail: string): string =>
  `{"type":"urn:tuanbar:error:${code}","title":"${title}","status":${status},"code":"${code}","detail":"${detail}","traceId":"$request_id"}`;

/**
 * TLS 1.3 in front of the gateways. Which requests may be sent twice: those that only read, and those with an idempotency key; another POST goes
 * to the next gateway only when the first one did not take the connection. One process without a master, so that a kill leaves no worker behind
 * that holds the port; the path to it is never reloaded.
 */
export function nginxFile(
  dataDir: string,
  of: { readonly host: string; readonly port: number; readonly gateways: readonly number[]; readonly tls: Certificates },
): string {
  const directory = folder(join(dataDir, "nginx"));
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
    (kind) => `  ${kind}_temp_path ${JSON.stringify(folder(join(directory, kind)))};`,
  );
  return write(
    join(directory, "nginx.conf"),
    `daemon off;
master_process off;
pid ${JSON.stringify(join(directory, "nginx.pid"))};
error_log stderr warn;
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
${temporary.join("\n")}
  access_log off;
  server_tokens off;
  # The gateway's own limits are lower, and it answers with a problem document.
  client_max_body_size 1m;
  client_body_buffer_size 128k;
  keepalive_timeout 75s;
  keepalive_requests 1000000;

  upstream gateways {
    # A gateway that refuses costs a connection attempt; one that hangs is left alone after eight. One failure must not be enough: while the
    # other one restarts, it would close the only door there is.
${of.gateways.map((port) => `    server 127.0.0.1:${port} max_fails=8 fail_timeout=1s;`).join("\n")}
    keepalive 256;
    keepalive_requests 1000000;
    # Shorter than the gateways keep theirs, so that nobody writes into a closing connection.
    keepalive_timeout 55s;
  }
  map "$request_method $http_idempotency_key" $repeatable {
    "~^(GET|HEAD) " 1;
    "~^POST ." 1;
    default 0;
  }

  server {
    listen ${isIPv6(of.host) ? `[${of.host}]` : of.host}:${of.port} ssl backlog=4096;
    ssl_certificate ${JSON.stringify(of.tls.certificateFile)};
    ssl_certificate_key ${JSON.stringify(of.tls.keyFile)};
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:tls:8m;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    # Written, not added to: what a client says of itself goes no further.
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto https;
    proxy_connect_timeout 1s;
    # A gateway gives up after 10 s; whoever takes longer is not running.
    proxy_read_timeout 13s;
    proxy_next_upstream_tries 2;

    location / {
      error_page 418 = @repeatable;
      if ($repeatable) { return 418; }
      error_page 502 504 = @unknown;
      proxy_next_upstream error timeout;
      proxy_pass http://gateways;
    }
    # No gateway answered. Where the request may be sent twice, the client may do so too; of any other nobody knows whether it happened.
    location @later {
      default_type application/problem+json;
      add_header Retry-After 1 always;
      return 503 '${problem("UNAVAILABLE", "Unavailable", 503, "the service cannot be reached; try again in 1 s")}';
    }
    location @unknown {
      default_type application/problem+json;
      return 504 '${problem("TIMEOUT", "Timeout", 504, "no answer in time; whether it happened is not known")}';
    }
    location @repeatable {
      error_page 502 504 = @later;
      proxy_next_upstream error timeout non_idempotent;
      proxy_pass http://gateways;
    }
    location = /api/v1/events/stream {
      # Streams are silent for up to 15 s.
      proxy_read_timeout 60s;
      proxy_buffering off;
      proxy_pass http://gateways;
    }
    location = /api/v1/recon/statements {
      # A million lines, streamed through; answered when all of them are in the databases.
      client_max_body_size 1g;
      proxy_request_buffering off;
      proxy_read_timeout 120s;
      proxy_pass http://gateways;
    }
    location = /api/v1/ops/verify {
      proxy_read_timeout 130s;
      proxy_pass http://gateways;
    }
  }
}
`,
  );
}
