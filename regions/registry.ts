/**
 * The regions of this node: loaded by a manifest, tried before they count, watched while they do. A policy that fails (throws, takes too long,
 * says nonsense) is replaced by the default one until its next answer is sound, and alarms: rules may be missing for a moment, sales may not.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { dirname, join, relative, resolve } from "node:path";
import { parse } from "yaml";
import {
  DEFAULT_POLICY,
  DEFAULT_RULES,
  ruleFaults,
  rulesOf,
  type RegionBook,
  type RegionPolicy,
  type RegionRules,
  type RegionView,
} from "../domain/region/policy.ts";
import { tryModule } from "./trial.ts";

/** A manifest that cannot be read; the message says what is wrong with it. */
export class ManifestError extends Error {
  override readonly name = "ManifestError";
}

interface Entry {
  readonly region: string;
  readonly module: string;
  readonly version: string;
  readonly order: number;
}

/** An answer is kept so long: an order needs no opinion of its own, and a festival may begin a second late. */
const KEPT_MS = 1_000;
/** A policy computes nothing; one that takes this long is doing something else. */
const ANSWER_MS = 20;

export interface RegionWatch {
  /** `kind`: refused (not loaded), threw, slow, or nonsense. */
  fault(region: string, kind: "refused" | "threw" | "slow" | "nonsense", detail: string): void;
}

interface Active {
  readonly policy: RegionPolicy;
  rules: RegionRules;
  askedMs: number;
  /** Why the default stands in for it; empty where it does not. */
  fault: string;
}

export class Regions implements RegionBook {
  readonly #manifest: string;
  readonly #watch: RegionWatch;
  #active = new Map<string, Active>();
  #refused: RegionView[] = [];
  #loading: Promise<unknown> = Promise.resolve();

  private constructor(manifest: string, watch: RegionWatch) {
    this.#manifest = resolve(manifest);
    this.#watch = watch;
  }

  /** Throws ManifestError; a policy that is not sound is refused, not thrown. */
  static async load(manifest: string, watch: RegionWatch): Promise<Regions> {
    const regions = new Regions(manifest, watch);
    await regions.reload();
    return regions;
  }

  rulesFor(region: string | undefined): RegionRules {
    const active = region === undefined ? undefined : this.#active.get(region);
    if (!active) return DEFAULT_RULES;
    const nowMs = performance.now();
    if (nowMs - active.askedMs > KEPT_MS) this.#ask(active, nowMs);
    return active.rules;
  }

  list(): readonly RegionView[] {
    const active = [...this.#active.values()].map(({ policy, fault }): RegionView => ({
      region: policy.region,
      version: policy.version,
      state: fault === "" ? "ACTIVE" : "FALLBACK",
      detail: fault,
    }));
    const otherwise: RegionView = {
      region: DEFAULT_POLICY.region,
      version: DEFAULT_POLICY.version,
      state: "ACTIVE",
      detail: "every other region",
    };
    return [...active, otherwise, ...this.#refused];
  }

  /** One at a time, in the order they are asked for. */
  reload(): Promise<readonly RegionView[]> {
    const loaded = this.#loading.then(() => this.#load());
    this.#loading = loaded.catch(() => undefined);
    return loaded;
  }

  async #load(): Promise<readonly RegionView[]> {
    const entries = readManifest(await readFile(this.#manifest, "utf8"));
    const active = new Map<string, Active>();
    const refused: RegionView[] = [];
    // Side by side: a thread for each trial is most of what a start waits for.
    const trials = await Promise.all(entries.map((entry) => this.#try(entry)));
    for (const [index, { region, version, module }] of entries.entries()) {
      const loaded = trials[index] ?? [];
      if (Array.isArray(loaded)) {
        const detail = loaded.slice(0, 5).join("; ");
        refused.push({ region, version, state: "REFUSED", detail });
        this.#watch.fault(region, "refused", `${module} ${version}: ${detail}`);
        // What served until now goes on.
        const before = this.#active.get(region);
        if (before && !active.has(region)) active.set(region, before);
      } else active.set(region, { policy: loaded, rules: DEFAULT_RULES, askedMs: -Infinity, fault: "" });
    }
    this.#active = active;
    this.#refused = refused;
    for (const one of active.values()) this.#ask(one, performance.now());
    return this.list();
  }

  async #try({ region, version, module }: Omit<Entry, "order">): Promise<RegionPolicy | string[]> {
    const folder = dirname(this.#manifest);
    const path = resolve(folder, module);
    if (relative(folder, path).startsWith("..")) return ["the module is not below the manifest"];
    try {
      const source = await readFile(path);
      // A module is kept for ever under its address, so an address is its content's: what has not changed is not loaded again.
      const url = `${pathToFileURL(join(path)).href}?content=${createHash("sha256").update(source).digest("hex").slice(0, 16)}`;
      const faults = await tryModule({ url, region, version });
      return faults.length > 0 ? faults : ((await import(url)) as { default: RegionPolicy }).default;
    } catch (error) {
      return [error instanceof Error ? error.message : String(error)];
    }
  }

  #ask(active: Active, nowMs: number): void {
    const { policy } = active;
    const fail = (kind: "threw" | "slow" | "nonsense", detail: string): void => {
      active.rules = DEFAULT_RULES;
      active.fault = `${kind}: ${detail}`;
      this.#watch.fault(policy.region, kind, detail);
    };
    active.askedMs = nowMs;
    try {
      const rules = Object.freeze(rulesOf(policy, { now: new Date() }));
      const tookMs = performance.now() - nowMs;
      const faults = ruleFaults(rules);
      if (faults.length > 0) return fail("nonsense", faults.join("; "));
      if (tookMs > ANSWER_MS) return fail("slow", `it took ${Math.round(tookMs)} ms`);
      active.rules = rules;
      active.fault = "";
    } catch (error) {
      fail("threw", error instanceof Error ? error.message : String(error));
    }
  }
}

const isTable = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function readManifest(yaml: string): Entry[] {
  let document: unknown;
  try {
    document = parse(yaml, { logLevel: "error" });
  } catch (error) {
    throw new ManifestError(`not YAML: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  const list = isTable(document) ? document["regions"] : undefined;
  if (!Array.isArray(list)) throw new ManifestError("`regions` is a list of region, module, version and order");
  const entries = list.map((entry: unknown, index): Entry => {
    if (!isTable(entry)) throw new ManifestError(`entry ${index + 1} is not a table`);
    const { region, module, version, order } = entry;
    if (typeof region !== "string" || typeof module !== "string" || typeof version !== "string" || !Number.isInteger(order))
      throw new ManifestError(`entry ${index + 1} has a region, a module and a version as text, and an order as a whole number`);
    if (region === DEFAULT_POLICY.region)
      throw new ManifestError(`entry ${index + 1}: the region \`default\` is what holds without a policy`);
    return { region, module, version, order: order as number };
  });
  return entries.sort((a, b) => a.order - b.order);
}
