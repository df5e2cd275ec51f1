/** A bar for each act: drawn over and over on a terminal, one line at its end anywhere else. */
const WIDTH = 28;
const TITLE_WIDTH = 34;

export class Bar {
  readonly #title: string;
  readonly #total: number;
  readonly #out: NodeJS.WriteStream;
  #done = 0;
  #note = "";
  #drawnMs = 0;

  constructor(title: string, total: number, out: NodeJS.WriteStream = process.stdout) {
    this.#title = title;
    this.#total = total;
    this.#out = out;
    this.#draw(true);
  }

  step(count = 1): void {
    this.#done = Math.min(this.#total, this.#done + count);
    this.#draw(false);
  }

  note(text: string): void {
    this.#note = text;
    this.#draw(true);
  }

  end(note = ""): void {
    this.#note = note;
    this.#draw(true);
    this.#out.write(this.#out.isTTY ? "\n" : `${this.#line()}\n`);
  }

  #draw(now: boolean): void {
    if (!this.#out.isTTY || (!now && performance.now() - this.#drawnMs < REDRAW_MS)) return;
    this.#drawnMs = performance.now();
    this.#out.write(`\r\x1b[2K${this.#line()}`);
  }

  #line(): string {
    const full = this.#total === 0 ? WIDTH : Math.round((this.#done / this.#total) * WIDTH);
    return `  ${this.#title.padEnd(TITLE_WIDTH)} ${"█".repeat(full)}${"░".repeat(WIDTH - full)} ${String(this.#done).padStart(4)}/${this.#total}  ${this.#note}`;
  }
}
const REDRAW_MS = 60;
