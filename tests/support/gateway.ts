/** A gateway before stub services: every contract is answered by a function the test names, or by an empty object. No database. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { ServiceBroker, type ServiceSchema } from "moleculer";
import type { Id } from "../../domain/ids.ts";
import type { Role } from "../../domain/user/role.ts";
import { parseKeyspaces } from "../../db/keyspaces.ts";
import type { CallMeta, Caller } from "../../mixins/contract.ts";
import { DomainErrorRegenerator } from "../../mixins/errors.ts";
import { Metrics } from "../../mixins/metrics.ts";
import { attachPlatform, Platform } from "../../mixins/platform.ts";
import { makeTokens } from "../../mixins/tokens.ts";
import { makeValidator } from "../../mixins/validator.ts";
import gateway from "../../services/gateway/gateway.service.ts";
import { CONTRACTS } from "../../services/gateway/routes.ts";

export const JWT_SECRET = "a secret of tests, with more than 32 bytes";
export const tokens = makeTokens(JWT_SECRET);

export interface Seen {
  readonly params: Record<string, unknown>;
  readonly meta: CallMeta;
}
export type Stub = (seen: Seen) => unknown;

export interface TestGateway {
  readonly broker: ServiceBroker;
  readonly url: string;
  readonly server: Server;
  readonly metrics: Metrics;
  /** What the gateway wrote to its log, warnings and errors. */
  readonly log: string[];
  stop(): Promise<void>;
}

export async function testGateway(
  stubs: Readonly<Record<string, Stub>> = {},
  settings: Record<string, unknown> = {},
): Promise<TestGateway> {
  const log: string[] = [];
  const broker = new ServiceBroker({
    nodeID: `gateway-${randomUUID().slice(0, 8)}`,
    logger: false,
    validator: makeValidator(),
    errorRegenerator: new DomainErrorRegenerator(),
    requestTimeout: 2_000,
    skipProcessEventRegistration: true,
  });
  const metrics = new Metrics();
  const keyspaces = parseKeyspaces(`
    keyspaces:
      user: { id: 0, name: users, databases: { users: 0-15 } }
      sh: { id: 1, name: 上海 Shanghai, region: cn-sh, databases: { sh: 0-15 } }`);
  attachPlatform(
    broker,
    new Platform({
      keyspaces,
      databases: new Map(),
      urlOf: (database) => database,
      openDatabase: () => assert.fail("nothing moves here"),
      metrics,
      logger: broker.logger,
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
    }),
  );
  for (const [name, actions] of Object.entries(Object.groupBy(CONTRACTS, (contract) => contract.name.split(".")[0] ?? ""))) {
    broker.createService({
      name,
      actions: Object.fromEntries(
        (actions ?? []).map((contract) => [
          contract.name.slice(name.length + 1),
          {
            params: { $$strict: true, ...contract.params },
            handler: (ctx: { params: Record<string, unknown>; meta: CallMeta }) =>
              (stubs[contract.name] ?? (() => ({})))({ params: ctx.params, meta: ctx.meta }),
          },
        ]),
      ),
    } as ServiceSchema);
  }
  const service = broker.createService({
    ...gateway,
    settings: { ...gateway.settings, jwtSecret: JWT_SECRET, port: 0, rateLimits: "off", ...settings },
    started: [
      gateway.started,
      // Nothing but a log is asked of it here.
      function (this: { logger: Record<string, unknown> }) {
        const keep = (details: object, message: string): void => void log.push(`${message} ${JSON.stringify(details, errorText)}`);
        this.logger["warn"] = keep;
        this.logger["error"] = keep;
      },
    ] as never,
  });
  await broker.start();
  const { server } = service as unknown as { server: Server };
  const { port } = server.address() as AddressInfo;
  return {
    broker,
    url: `http://127.0.0.1:${port}`,
    server,
    metrics,
    log,
    /** As `makeNode` does it: the door first. */
    async stop() {
      await broker.destroyService(service);
      await broker.stop();
    },
  };
}

const errorText = (_key: string, value: unknown): unknown => (value instanceof Error ? `${value.name}: ${value.message}` : value);

let nextUser = 1_000_000n;
/** Somebody with these roles, and the header that proves it. */
export async function somebody(...roles: readonly Role[]): Promise<{ caller: Caller; authorization: string }> {
  const caller: Caller = {
    userId: String((nextUser += 4096n)) as Id<"user">,
    username: "somebody",
    roles,
    ...(roles.includes("merchant") ? { merchantId: "69632" as Id<"merchant"> } : {}),
  };
  return { caller, authorization: `Bearer ${await tokens.sign(caller, 60)}` };
}
