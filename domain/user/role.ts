/** Who somebody is to the platform. A user may have several. */
export type Role = "consumer" | "merchant" | "finance" | "admin";
export const ROLES = ["consumer", "merchant", "finance", "admin"] as const satisfies readonly Role[];
