/** Everything the gateway serves for the services: their contracts that have a REST form, and their raw routes. A test holds this list complete. */
import type { Contract, Rest } from "../../mixins/contract.ts";
import type { RawRoute } from "../../mixins/raw-routes.ts";
import * as callback from "../callback/callback.contract.ts";
import * as deal from "../deal/deal.contract.ts";
import * as group from "../group/group.contract.ts";
import * as merchant from "../merchant/merchant.contract.ts";
import * as notify from "../notify/notify.contract.ts";
import * as ops from "../ops/ops.contract.ts";
import * as order from "../order/order.contract.ts";
import * as payment from "../payment/payment.contract.ts";
import * as probe from "../probe/probe.contract.ts";
import * as routing from "../routing/routing.contract.ts";
import * as settlement from "../settlement/settlement.contract.ts";
import * as recon from "../recon/recon.contract.ts";
import * as search from "../search/search.contract.ts";
import * as searchIndex from "../search-index/search-index.contract.ts";
import * as user from "../user/user.contract.ts";
import * as voucher from "../voucher/voucher.contract.ts";
import * as wallet from "../wallet/wallet.contract.ts";

const MODULES: readonly Readonly<Record<string, unknown>>[] = [
  user,
  wallet,
  merchant,
  deal,
  search,
  searchIndex,
  order,
  payment,
  callback,
  group,
  voucher,
  settlement,
  recon,
  notify,
  routing,
  ops,
  probe,
];

export type RestContract = Contract & { readonly rest: Rest };

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> => typeof value === "object" && value !== null;
export const isContract = (value: unknown): value is Contract =>
  isRecord(value) && "params" in value && "retrySafe" in value && "name" in value;
export const isRawRoute = (value: unknown): value is RawRoute => isRecord(value) && "mediaType" in value && "rest" in value;

/** Every contract there is, also those without a REST form: the wire surface between services. */
export const CONTRACTS: readonly Contract[] = MODULES.flatMap((module) => Object.values(module).filter(isContract));
export const REST_CONTRACTS: readonly RestContract[] = CONTRACTS.filter(
  (contract): contract is RestContract => contract.rest !== undefined,
);
export const RAW_ROUTES: readonly RawRoute[] = MODULES.flatMap((module) => Object.values(module).filter(isRawRoute));

/** `/orders` → `/api/v1/orders`. */
export const fullPath = (rest: Pick<Rest, "path" | "root">): string => (rest.root ? rest.path : `/api/v1${rest.path}`);
