import { isoText } from "../../domain/moment.ts";
import type { OrderRow } from "../../domain/order/place.ts";
import { toJson } from "../../domain/money.ts";
import type { Of } from "../../mixins/contract.ts";
import type { Order } from "./order.contract.ts";

/** An order as clients see it; `as`: how far it was at the moment that is shown. */
export const viewOrder = (order: OrderRow, city: string, as: Pick<OrderRow, "state" | "paidAt"> = order): Of<typeof Order> => ({
  id: order.id,
  status: as.state,
  dealId: order.dealId,
  merchantId: order.merchantId,
  city,
  quantity: order.quantity,
  unitPrice: toJson(order.unitPrice),
  discount: toJson(order.discount),
  amount: toJson(order.amount),
  region: order.region,
  regionVersion: order.regionVersion,
  discountBps: order.discountBps,
  ...(order.groupId === undefined ? undefined : { groupId: order.groupId }),
  expiresAt: isoText(order.expiresAt),
  createdAt: isoText(order.createdAt),
  ...(as.paidAt === undefined ? undefined : { paidAt: isoText(as.paidAt) }),
});

/** The answer its POST gave: an order as it was when it was made, whatever has become of it. All of it is fixed on the row. */
export const viewNewOrder = (order: OrderRow, city: string): Of<typeof Order> => viewOrder(order, city, NEW);
const NEW = { state: "PENDING_PAYMENT", paidAt: undefined } as const;
