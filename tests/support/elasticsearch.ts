/**
 * A small model of Elasticsearch behind the client's official mock: indices, one alias each, bulk writes, and of the query language what
 * `deal-index.store.ts` says. Anything else it is asked is an error. TEST_ELASTICSEARCH names a real server to be used in its place.
 */
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { Client, type errors as clientErrors } from "@elastic/elasticsearch";
import mockModule, { type MockPattern } from "@elastic/elasticsearch-mock";
import type { ServerOptions } from "../../services/search/deal-index.store.ts";

// The mock knows errors by the classes that `require` gives it.
const { errors } = createRequire(import.meta.url)("@elastic/elasticsearch") as { errors: typeof clientErrors };
/** Its types tell of a default export that it does not have. */
const Mock = mockModule as unknown as typeof mockModule.default;

type Fields = Record<string, string | number>;
interface Index {
  readonly properties: Readonly<Record<string, unknown>>;
  readonly documents: Map<string, Fields>;
  isServed: boolean;
}
interface Bool {
  readonly filter?: readonly Clause[];
  readonly must?: readonly Clause[];
  readonly should?: readonly Clause[];
}
type Clause = { readonly bool: Bool } | Readonly<Record<"term" | "prefix" | "range", Readonly<Record<string, unknown>>>>;

export interface TestElasticsearch {
  readonly options: ServerOptions;
  /** Names of the indices there are. */
  indices(): Promise<string[]>;
  /** From now on nobody is reached; on the model only. */
  down(isDown: boolean): void;
  readonly isReal: boolean;
  /** Lets be found what was written. */
  refresh(): Promise<void>;
  clear(): Promise<void>;
}

export function testElasticsearch(): TestElasticsearch {
  const url = process.env["TEST_ELASTICSEARCH"];
  const model = url === undefined ? new Model() : undefined;
  const options: ServerOptions =
    model === undefined ? { node: url as string } : { node: "http://elasticsearch.test:9200", Connection: connectionOf(model.mock) };
  const client = new Client(options);
  const names = async (): Promise<string[]> => Object.keys(await client.indices.get({ index: "tuanbar-deals-*" }));
  return {
    options,
    isReal: model === undefined,
    indices: names,
    down: (isDown) => void (model && (model.isDown = isDown)),
    async refresh() {
      await client.indices.refresh({ index: "tuanbar-deals-*" });
    },
    async clear() {
      for (const index of await names()) await client.indices.delete({ index });
    },
  };
}

/** The mock's connection cannot be closed, which the client asks of it when it is. */
const connectionOf = (mock: InstanceType<typeof Mock>): NonNullable<ServerOptions["Connection"]> =>
  class extends (mock.getConnection() as unknown as NonNullable<ServerOptions["Connection"]>) {
    override close(): Promise<void> {
      return Promise.resolve();
    }
  };

class Model {
  readonly mock = new Mock();
  isDown = false;
  readonly #indices = new Map<string, Index>();

  constructor() {
    const on = (method: string, path: string, answer: (params: MockPattern, name: string) => object): void =>
      void this.mock.add({ method, path }, (params) => {
        if (this.isDown) return new errors.ConnectionError("nobody is there");
        return answer(
          params,
          String(params.path)
            .split("/")
            .find((part) => part.startsWith("tuanbar-")) ?? "",
        );
      });
    on("PUT", "/:index", ({ body }, name) => {
      const { mappings } = body as { mappings: { properties: Index["properties"] } };
      this.#indices.set(name, { properties: mappings.properties, documents: new Map(), isServed: false });
      return { acknowledged: true };
    });
    on("GET", "/:index", (_, name) =>
      Object.fromEntries([...this.#named(name)].map(([one, { isServed }]) => [one, { aliases: isServed ? { "tuanbar-deals": {} } : {} }])),
    );
    on("DELETE", "/:index", (_, name) => (this.#indices.delete(name) ? { acknowledged: true } : missing()));
    on("GET", "/:index/_refresh", () => ({ _shards: {} }));
    on("HEAD", "/_alias/:name", () => ([...this.#indices.values()].some(({ isServed }) => isServed) ? {} : missing()));
    on("POST", "/_aliases", ({ body }) => {
      for (const action of (body as { actions: { add?: { index: string }; remove?: { index: string } }[] }).actions) {
        const index = this.#indices.get(action.add?.index ?? action.remove?.index ?? "");
        if (index) index.isServed = action.add !== undefined;
      }
      return { acknowledged: true };
    });
    on("POST", "/_bulk", ({ body }) => this.#bulk(body as Record<string, unknown>[]));
    on("PUT", "/_bulk", ({ body }) => this.#bulk(body as Record<string, unknown>[]));
    on("POST", "/:index/_search", ({ body }) => {
      const served = [...this.#indices.values()].find(({ isServed }) => isServed);
      return served ? search(served, body as unknown as Parameters<typeof search>[1]) : missing();
    });
  }

  #named(pattern: string): [string, Index][] {
    return [...this.#indices].filter(([name]) => (pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern));
  }

  #bulk(lines: readonly Record<string, unknown>[]): object {
    const items = [];
    for (let at = 0; at < lines.length; at += 2) {
      const [[how, target]] = Object.entries(lines[at] ?? {}) as [[string, { _index: string; _id: string }]];
      const document = lines[at + 1] as Fields;
      const index = this.#indices.get(target._index);
      if (!index) items.push({ [how]: { _id: target._id, status: 404, error: { type: "index_not_found_exception" } } });
      else if (Object.keys(document).some((field) => !(field in index.properties)))
        items.push({ [how]: { _id: target._id, status: 400, error: { type: "strict_dynamic_mapping_exception" } } });
      else if (how === "create" && index.documents.has(target._id))
        items.push({ [how]: { _id: target._id, status: 409, error: { type: "version_conflict_engine_exception" } } });
      else {
        index.documents.set(target._id, document);
        items.push({ [how]: { _id: target._id, status: 201 } });
      }
    }
    return { errors: items.some((item) => "error" in item), items };
  }
}

const missing = (): object =>
  new errors.ResponseError({
    statusCode: 404,
    body: { error: { type: "index_not_found_exception" }, status: 404 },
    warnings: null,
    meta: {} as never,
  });

function search(
  { documents }: Index,
  asked: { query: Clause; sort: Record<string, "asc" | "desc">[]; search_after?: (string | number)[]; size: number },
): object {
  const order = asked.sort.map((one) => Object.entries(one)[0] as [string, "asc" | "desc"]);
  const compare = (a: readonly (string | number)[], b: readonly (string | number)[]): number => {
    for (const [index, [, direction]] of order.entries()) {
      const [left = 0, right = 0] = [a[index], b[index]];
      assert.equal(typeof left, typeof right, "what is compared is of one type");
      if (left !== right) return left < right === (direction === "asc") ? -1 : 1;
    }
    return 0;
  };
  const hits = [...documents.values()]
    .flatMap((fields) => {
      const score = scoreOf(asked.query, fields);
      return score === undefined
        ? []
        : [{ sort: order.map(([field]) => (field === "_score" ? Math.fround(score) : (fields[field] ?? 0))) }];
    })
    .filter(({ sort }) => asked.search_after === undefined || compare(sort, asked.search_after) > 0)
    .toSorted((a, b) => compare(a.sort, b.sort));
  return { took: 1, timed_out: false, _shards: {}, hits: { hits: hits.slice(0, asked.size) } };
}

/** Undefined where the document is not meant. */
function scoreOf(clause: Clause, fields: Fields): number | undefined {
  if ("bool" in clause) {
    const { filter = [], must = [], should } = (clause as { bool: Bool }).bool;
    if (filter.some((one) => scoreOf(one, fields) === undefined)) return undefined;
    const scores = must.map((one) => scoreOf(one, fields));
    if (scores.includes(undefined)) return undefined;
    const optional = (should ?? []).flatMap((one) => scoreOf(one, fields) ?? []);
    if (should !== undefined && optional.length === 0) return undefined;
    return [...scores, ...optional].reduce<number>((sum, score) => sum + (score ?? 0), 0);
  }
  const [[kind, on]] = Object.entries(clause) as [[string, Record<string, unknown>]];
  const [[field, said]] = Object.entries(on) as [[string, unknown]];
  const value = fields[field];
  assert.ok(value !== undefined, `a field ${field}`);
  if (kind === "range") {
    const { lte, gt } = said as { lte?: number; gt?: number };
    return (lte === undefined || Number(value) <= lte) && (gt === undefined || Number(value) > gt) ? 0 : undefined;
  }
  const { value: wanted, boost = 0 } = (typeof said === "object" ? said : { value: said }) as { value: string | number; boost?: number };
  const words = field === "title" || field === "text" ? String(value).split(" ") : [value];
  assert.ok(kind === "term" || kind === "prefix", `a clause ${kind}`);
  return words.some((word) => (kind === "term" ? word === wanted : String(word).startsWith(String(wanted)))) ? boost : undefined;
}
