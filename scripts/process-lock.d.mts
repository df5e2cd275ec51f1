/** Takes the lock, or says which living process holds it. See `process-lock.mjs`. */
export function tryProcessLock(directory: string): { release: () => void } | { holderPid: number };

/** The process's birth as a string that no later process of the same number shares; "" when it is dead. */
export function birthOf(pid: number): string;
