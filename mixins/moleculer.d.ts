import "moleculer";

/** Keys of ours (and two of Moleculer's own) that its 0.15 types do not know. */
declare module "moleculer" {
  interface ActionSchema<TThis> {
    timeout?: number;
    retrySafe?: boolean;
  }
  interface CallingOptions {
    /** The parameters have been checked by their contract, by this process. It does not travel: another node checks them again. */
    checked?: true;
  }
}
