/** What the gateway answers by itself: health, metrics, and the contract as a document and as a page. */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import type { BlockList } from "node:net";
import { dirname, join } from "node:path";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { raise } from "../../domain/error.ts";
import type { Health } from "../../mixins/health.ts";
import type { Metrics } from "../../mixins/metrics.ts";
import { addressOf, isInside } from "./callers.ts";
import type { Serve } from "./calls.ts";
import { openApi } from "./openapi.ts";

export interface PagesHost {
  readonly health: Health;
  readonly metrics: Metrics;
  readonly proxies: BlockList;
  /** Also to addresses that are not loopback or private. */
  readonly metricsToAll: boolean;
}

/** GET pages by path. */
export function pages(host: PagesHost): ReadonlyMap<string, Serve> {
  const document = JSON.stringify(openApi());
  const assets = [...ASSETS].map(([name, type]): [string, Serve] => [
    `/docs/${name}`,
    async (exchange) => exchange.send(200, type, await asset(name), KEPT),
  ]);
  return new Map<string, Serve>([
    ["/", (exchange) => exchange.send(302, undefined, "", ["Location", "/docs"])],
    ["/healthz", (exchange) => exchange.sendJson(200, { status: "ok" })],
    ["/readyz", (exchange) => readyz(host, exchange)],
    ["/metrics", (exchange) => metrics(host, exchange)],
    ["/openapi.json", (exchange) => exchange.send(200, "application/json; charset=utf-8", document, ["Cache-Control", "no-cache"])],
    ["/docs", (exchange) => exchange.send(200, "text/html; charset=utf-8", PAGE, PAGE_HEADERS)],
    ["/docs/start.js", (exchange) => exchange.send(200, "text/javascript; charset=utf-8", START, KEPT)],
    ...assets,
  ]);
}

const readyz = async ({ health }: PagesHost, exchange: Parameters<Serve>[0]): Promise<void> => {
  const { ready, missing } = await health.readiness();
  exchange.sendJson(
    ready ? 200 : 503,
    { status: ready ? "ready" : "not ready", ...(missing.length === 0 ? {} : { missing }) },
    ready ? [] : ["Retry-After", "2"],
  );
};

const metrics = async (host: PagesHost, exchange: Parameters<Serve>[0]): Promise<void> => {
  if (!host.metricsToAll && !isInside(addressOf(exchange.req, host.proxies)))
    raise(COMMON_ERRORS, "FORBIDDEN", { need: "addresses inside" });
  exchange.send(200, host.metrics.registry.contentType, await host.metrics.registry.metrics());
};

/** Of `swagger-ui-dist`: the two files its page needs, served from here so that it needs no network. */
const ASSETS = new Map([
  ["swagger-ui.css", "text/css; charset=utf-8"],
  ["swagger-ui-bundle.js", "text/javascript; charset=utf-8"],
  ["favicon-32x32.png", "image/png"],
]);
const ASSETS_DIR = dirname(createRequire(import.meta.url).resolve("swagger-ui-dist/package.json"));
const asset = (name: string): Promise<Buffer> => readFile(join(ASSETS_DIR, name));
/** A day: they change only with a release. */
const KEPT = ["Cache-Control", "public, max-age=86400"];

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tuanbar API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<body>
<main id="page"></main>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;
const START = `SwaggerUIBundle({ url: "/openapi.json", dom_id: "#page", deepLinking: true, docExpansion: "list", validatorUrl: null, persistAuthorization: false });
`;
/** The page writes styles into its elements; scripts, data and everything else come from here alone. */
const PAGE_HEADERS = [
  ...["Cache-Control", "no-cache"],
  ...[
    "Content-Security-Policy",
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; " +
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  ],
];
