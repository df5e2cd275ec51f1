/** The manifests of an overlay, and what the tests look at of them. No cluster, no network. */
import { fileURLToPath } from "node:url";
import { kustomize } from "./kustomize.ts";

export const root = fileURLToPath(new URL("../..", import.meta.url));

type Labels = Readonly<Record<string, string>>;
export interface Container {
  readonly name: string;
  readonly image: string;
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly secretKeyRef?: { readonly name: string } };
  }[];
  readonly envFrom?: readonly { readonly secretRef?: { readonly name: string; readonly optional?: boolean } }[];
  readonly resources?: { readonly requests?: object; readonly limits?: { readonly memory?: string } };
  readonly securityContext?: Readonly<Record<string, unknown>> & { readonly capabilities?: { readonly drop?: readonly string[] } };
  readonly readinessProbe?: object;
  readonly livenessProbe?: object;
  readonly startupProbe?: object;
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
}
export interface PodTemplate {
  readonly metadata: { readonly labels: Labels; readonly annotations?: Labels };
  readonly spec: Readonly<Record<string, unknown>> & {
    readonly containers: readonly Container[];
    readonly securityContext?: Readonly<Record<string, unknown>>;
    readonly volumes?: readonly { readonly name: string; readonly secret?: { readonly secretName: string } }[];
  };
}
interface Selector {
  readonly matchLabels?: Labels;
}
export interface Peer {
  readonly ipBlock?: { readonly cidr: string; readonly except?: readonly string[] };
  readonly podSelector?: Selector;
  readonly namespaceSelector?: Selector;
}
export interface PolicyRule {
  readonly ports: readonly { readonly port: number }[];
  readonly from?: readonly Peer[];
  readonly to?: readonly Peer[];
}
/** Of a manifest, what the tests look at; that the rest of it is sound, its schema says. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly data?: Labels;
  readonly spec: {
    readonly template?: PodTemplate;
    readonly replicas?: number;
    readonly podSelector?: Selector;
    readonly selector?: Selector & Labels;
    readonly policyTypes?: readonly string[];
    readonly ingress?: readonly PolicyRule[];
    readonly egress?: readonly PolicyRule[];
    readonly scaleTargetRef?: { readonly name: string };
    readonly postgresql?: { readonly parameters: Labels };
    readonly inheritedMetadata?: { readonly labels: Labels; readonly annotations: Labels };
  };
}

export const overlayPath = (name: string): string => `${root}/k8s/overlays/${name}`;

export const buildOverlay = (name: string): Manifest[] => kustomize(overlayPath(name)) as unknown as Manifest[];

export const ofKind = (manifests: readonly Manifest[], ...kinds: readonly string[]): Manifest[] =>
  manifests.filter(({ kind }) => kinds.includes(kind));

export const matches = (selector: Selector | undefined, labels: Labels): boolean =>
  Object.entries(selector?.matchLabels ?? {}).every(([name, value]) => labels[name] === value);
