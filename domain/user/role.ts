/** Who somebody is to the platform. A user may have several. */
export type Role = "consumer" | "merchant" | "admin";
export const ROLES = ["consumer", "merchant", "admin"] as const satisfies readonly Role[];
