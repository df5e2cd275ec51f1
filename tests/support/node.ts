/** A real node on real databases, with the services a test names; called through the broker as the gateway would. */
import { randomUUID, createHash } from "node:crypto";
import { makeNode, type Node, type ServiceName } from "../../moleculer.config.ts";
import type { Id } from "../../domain/ids.ts";
import type { Role } from "../../domain/user/role.ts";
import { call, type Caller, type Contract, type Fields, type Infer, type Of } from "../../mixins/contract.ts";
import { testKeyspaces, testServer, type TestKeyspaces, type TestServer } from "./databases.ts";

export interface TestNode {
  readonly node: Node;
  readonly keyspaces: TestKeyspaces;
  readonly server: TestServer;
  stop(): Promise<void>;
}

export async function testNode(
  services: readonly ServiceName[],
  settings: Parameters<typeof makeNode>[0]["settings"] = {},
  more: Partial<Pick<Parameters<typeof makeNode>[0], "channels" | "trade" | "redisUrl" | "regionsFile" | "tracing">> = {},
): Promise<TestNode> {
  // A file whose set-up fails must end, not wait for a server nobody stops.
  const started: (() => Promise<void>)[] = [];
  const stop = async (): Promise<void> => {
    for (const end of started.splice(0).toReversed()) await end();
  };
  try {
    const server = await testServer();
    started.push(server.stop);
    const keyspaces = await testKeyspaces(server);
    started.push(keyspaces.drop);
    const node = await makeNode({
      nodeID: `test-${randomUUID().slice(0, 8)}`,
      keyspaces: keyspaces.keyspaces,
      urlOf: keyspaces.urlOf,
      services,
      trade: { orderTtlSeconds: 900, reversalMinutes: 60, settlementDelayMinutes: 60 },
      logLevel: process.env["LOG_LEVEL"] ?? "fatal",
      settings,
      ...more,
    });
    started.push(() => node.stop());
    return { node, keyspaces, server, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

export const caller = (userId: string, roles: readonly Role[] = ["consumer"], merchantId?: string): Caller => ({
  userId: userId as Id<"user">,
  username: `user-${userId}`,
  roles,
  ...(merchantId === undefined ? {} : { merchantId: merchantId as Id<"merchant"> }),
});

/** Calls an action as somebody, with a key of its own unless one is given; the body hash is made as the gateway makes it. */
export const callAs = <N extends string, P extends Fields, A>(
  node: Node,
  contract: Contract<N, P, A>,
  params: Infer<P>,
  as: Caller | undefined,
  idempotencyKey: string = randomUUID(),
): Promise<Of<A>> =>
  call(node.broker, contract, params, {
    meta: {
      ...(as === undefined ? {} : { caller: as }),
      requestId: randomUUID(),
      idempotencyKey,
      bodyHash: createHash("sha256")
        .update(JSON.stringify([contract.name, params]))
        .digest("hex"),
    },
  });
