/** From a request to who serves it, or to the problem document of a path or a method that is not there. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { COMMON_ERRORS } from "../../domain/common-errors.ts";
import { refusal } from "../../domain/error.ts";
import type { Serve } from "./calls.ts";
import { Exchange, RouteMetric, type ExchangeHost } from "./exchange.ts";
import { RouteTable } from "./route-table.ts";

interface Route {
  readonly metric: RouteMetric;
  readonly action: string;
  readonly serve: Serve;
}

/** What of a made-up path is repeated in an answer. */
const PATH_SHOWN_MAX = 200;

export class Dispatcher {
  readonly #host: ExchangeHost;
  readonly #table = new RouteTable<Route>();
  /** One for all of them: a scanner must not make a time series per path it tries. */
  readonly #unrouted: RouteMetric;

  constructor(host: ExchangeHost) {
    this.#host = host;
    this.#unrouted = new RouteMetric(host.metrics, "none");
  }

  add(method: string, template: string, action: string, serve: Serve): void {
    this.#table.add(method, template, { metric: new RouteMetric(this.#host.metrics, `${method} ${template}`), action, serve });
  }

  dispatch(req: IncomingMessage, res: ServerResponse): void {
    const { url = "/", method = "GET" } = req;
    const mark = url.indexOf("?");
    const path = mark < 0 ? url : url.slice(0, mark);
    const { found, values, allow } = this.#table.find(method, path);
    const exchange = new Exchange(this.#host, req, res, {
      metric: found?.metric ?? this.#unrouted,
      action: found?.action ?? "",
      query: mark < 0 ? "" : url.slice(mark + 1),
      pathValues: values,
    });
    try {
      if (found === undefined) exchange.fail(notServed(method, path, allow));
      else this.#serve(found, exchange)?.catch((error: unknown) => exchange.fail(error));
    } catch (error) {
      exchange.fail(error);
    }
  }

  #serve({ metric, action, serve }: Route, exchange: Exchange): void | Promise<void> {
    const { tracing } = this.#host;
    // Pages of the gateway's own, which balancers and Prometheus ask for all day, are nobody's request.
    return tracing === undefined || action === ""
      ? serve(exchange)
      : tracing.request(metric.name, exchange.requestId, exchange.res, () => serve(exchange));
  }
}

const notServed = (method: string, path: string, allow: readonly string[]) =>
  allow.length === 0
    ? refusal(COMMON_ERRORS, "ROUTE_NOT_FOUND", { method, path: path.slice(0, PATH_SHOWN_MAX) })
    : refusal(COMMON_ERRORS, "METHOD_NOT_ALLOWED", { method, allow });
