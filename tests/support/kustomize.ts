/**
 * What kustomize makes of k8s/, for machines that have none: the part of it that our files use, and an error for any other. Where a kubectl or a
 * kustomize is on the PATH, a test compares the two.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parse, parseAllDocuments } from "yaml";

/** A manifest as it is written: anything, with a kind and a name. */
export interface Raw {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { name: string; namespace?: string; labels?: Record<string, string> };
  readonly [field: string]: unknown;
}
interface Target {
  readonly kind: string;
  readonly name?: string;
  readonly labelSelector?: string;
}
interface Kustomization {
  readonly namespace?: string;
  readonly resources?: readonly string[];
  readonly components?: readonly string[];
  readonly labels?: readonly { readonly pairs: Record<string, string> }[];
  readonly configMapGenerator?: readonly { readonly name: string; readonly behavior?: "replace"; readonly files: readonly string[] }[];
  readonly replicas?: readonly { readonly name: string; readonly count: number }[];
  readonly images?: readonly { readonly name: string; readonly newName: string; readonly newTag: string }[];
  readonly patches?: readonly { readonly patch: string; readonly target?: Target }[];
}
const KNOWN = new Set([
  ...["apiVersion", "kind", "namespace", "resources", "components", "labels", "configMapGenerator", "replicas", "images", "patches"],
]);
/** As Kubernetes reads it: 0555 is octal. */
const YAML = { version: "1.1" } as const;
const NOT_IN_A_NAMESPACE = new Set(["Namespace"]);
/** Where kustomize has a hash of the content. */
export const HASH = "-0000000000";

/** All manifests of a directory with a `kustomization.yaml`, names of generated ConfigMaps with a hash behind them. */
export function kustomize(directory: string): Raw[] {
  const generated = new Set<string>();
  const manifests = build(directory, [], generated);
  return manifests.map((manifest) => withHashes(manifest, generated) as Raw);
}

function build(directory: string, before: readonly Raw[], generated: Set<string>): Raw[] {
  const file = parse(readFileSync(join(directory, "kustomization.yaml"), "utf8")) as Kustomization;
  const unknown = Object.keys(file).find((key) => !KNOWN.has(key));
  if (unknown !== undefined) throw new Error(`${directory}: ${unknown} is not known to this renderer`);
  let all = [...before];
  for (const resource of file.resources ?? []) {
    const path = join(directory, resource);
    all.push(
      ...(/\.ya?ml$/.test(path)
        ? parseAllDocuments(readFileSync(path, "utf8"), YAML).map((one) => one.toJS() as Raw)
        : build(path, [], generated)),
    );
  }
  for (const { name, behavior, files } of file.configMapGenerator ?? []) {
    const data = Object.fromEntries(files.map((path) => [basename(path), readFileSync(join(directory, path), "utf8")]));
    const replaced = all.findIndex(({ kind, metadata }) => behavior === "replace" && kind === "ConfigMap" && metadata.name === name);
    if (replaced < 0) all.push({ apiVersion: "v1", kind: "ConfigMap", metadata: { name }, data });
    else all[replaced] = { ...(all[replaced] as Raw), data };
    generated.add(name);
  }
  for (const component of file.components ?? []) all = build(join(directory, component), all, generated);
  for (const { patch, target } of file.patches ?? []) all = patched(all, parse(patch), target);
  for (const manifest of all) {
    const { metadata } = manifest;
    if (file.namespace !== undefined && !NOT_IN_A_NAMESPACE.has(manifest.kind)) metadata.namespace = file.namespace;
    for (const { pairs } of file.labels ?? []) metadata.labels = { ...metadata.labels, ...pairs };
    for (const { name, count } of file.replicas ?? [])
      if (metadata.name === name && /^(Deployment|StatefulSet)$/.test(manifest.kind))
        (manifest["spec"] as { replicas: number }).replicas = count;
  }
  return all.map((manifest) => withImages(manifest, file.images ?? []) as Raw);
}

/** RFC 6902 at a target, or `$patch: delete` of what it names: nothing else is used. */
function patched(all: Raw[], patch: unknown, target: Target | undefined): Raw[] {
  if (target === undefined) {
    const { $patch, kind, metadata } = patch as Raw & { readonly $patch?: string };
    if ($patch !== "delete") throw new Error("a patch without a target deletes");
    return all.filter((manifest) => manifest.kind !== kind || manifest.metadata.name !== metadata.name);
  }
  for (const manifest of all.filter((one) => isTarget(one, target)))
    for (const { op, path, value } of patch as readonly { op: string; path: string; value: unknown }[]) {
      if (op !== "replace") throw new Error(`patches replace; ${op} is not known to this renderer`);
      const keys = path.slice(1).split("/");
      const last = keys.pop() ?? "";
      const holder = keys.reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], manifest) as Record<
        string,
        unknown
      >;
      if (holder?.[last] === undefined) throw new Error(`${manifest.kind} ${manifest.metadata.name} has no ${path} to replace`);
      holder[last] = value;
    }
  return all;
}

/** Labels as `name in (a, b)`. */
function isTarget({ kind, metadata }: Raw, target: Target): boolean {
  if (kind !== target.kind || (target.name !== undefined && metadata.name !== target.name)) return false;
  if (target.labelSelector === undefined) return true;
  const [, label = "", values = ""] = /^(\S+) in \((.*)\)$/.exec(target.labelSelector) ?? [];
  return values.split(", ").includes(metadata.labels?.[label] ?? "");
}

const mapped = (value: unknown, change: (key: string, value: unknown) => unknown): unknown =>
  Array.isArray(value)
    ? value.map((one) => mapped(one, change))
    : typeof value === "object" && value !== null
      ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, mapped(change(key, one), change)]))
      : value;

const withImages = (manifest: Raw, images: NonNullable<Kustomization["images"]>): unknown =>
  mapped(manifest, (key, value) => {
    const image = key === "image" ? images.find(({ name }) => name === String(value).split(":")[0]) : undefined;
    return image === undefined ? value : `${image.newName}:${image.newTag}`;
  });

/** The ConfigMap itself, and what refers to it: volumes and environment. */
function withHashes(manifest: Raw, generated: ReadonlySet<string>): unknown {
  const hashed = (named: unknown): unknown => {
    const { name } = named as { name?: string };
    return name !== undefined && generated.has(name) ? { ...(named as object), name: name + HASH } : named;
  };
  if (manifest.kind === "ConfigMap") return { ...manifest, metadata: hashed(manifest.metadata) };
  return mapped(manifest, (key, value) => (/^configMap(KeyRef|Ref)?$/.test(key) ? hashed(value) : value));
}

/** As the real one builds it; undefined where there is none on the PATH. */
export function realKustomize(directory: string): Raw[] | undefined {
  for (const [program, ...args] of [
    ["kustomize", "build"],
    ["kubectl", "kustomize"],
  ] as const) {
    try {
      const text = execFileSync(program, [...args, directory], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], maxBuffer: 2 ** 24 });
      return parseAllDocuments(text).map((document) => document.toJS() as Raw);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return undefined;
}
