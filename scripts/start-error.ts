/** The class itself lives in `db/`, because `db/` raises it and may import nothing from here. */
export { StartError } from "../db/start-error.ts";
