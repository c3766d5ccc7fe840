/** The figures of the calls under the present budget and input. */

import type { Bundle } from "../../src/bundle/schema.js";
import { median } from "../../src/control/sorted.js";
import type { Result } from "../../src/result.js";
import type { Layer } from "./decision_layers.js";

/** Calls whose median is shown. */
const CALLS = 25;
const DENSE_CALLS = 15;

/** Keeps and shows them. */
export class Figures {
  private latencies: number[] = [];
  private denseLatencies: number[] = [];
  private readonly tiles = new Map<string, { readonly value: HTMLElement; readonly note: HTMLElement }>();

  constructor(
    private readonly root: HTMLElement,
    private readonly bundle: Bundle,
    private readonly denseName: string,
  ) {}

  /** Another budget or input holds: the calls before do not count any more. */
  restart(): void {
    this.latencies = [];
  }

  /** Another input, for which the dense model takes another time. */
  restartDense(): void {
    this.denseLatencies = [];
    this.restart();
  }

  /** The median of the dense model's calls; null before the first. */
  get denseMs(): number | null {
    return this.denseLatencies.length === 0 ? null : median(this.denseLatencies);
  }

  addCall({ macsFraction, latencyMs, exit }: Result): void {
    this.latencies = [...this.latencies, latencyMs].slice(-CALLS);
    const [work, calls] = [macsFraction[0]!, this.latencies.length];
    this.set("work", "work", percent(work), "of the dense model's", work);
    const note = calls === 1 ? "this call" : `median of ${calls} calls`;
    this.set("latency", "latency", milliseconds(median(this.latencies)), note, latencyMs);
    if (exit !== null) {
      const [stage, stages] = [exit[0]!, this.bundle.stages.length];
      const note = this.bundle.stages[stage]?.exit ?? (stage === stages - 1 ? "the end" : "");
      this.set("exit", "left at exit", `${stage + 1} of ${stages}`, note, stage);
    }
    this.compare();
  }

  addDense(latencyMs: number): void {
    this.denseLatencies = [...this.denseLatencies, latencyMs].slice(-DENSE_CALLS);
    this.compare();
  }

  /** What was decided, summed up. */
  showLayers(layers: readonly Layer[]): void {
    const gates = layers.filter(({ kind, reached }) => kind === "learners" && reached);
    if (layers.some(({ kind }) => kind === "learners")) {
      const all = gates.flatMap(({ values }) => values.filter((one) => one >= 0));
      const mean = all.reduce((sum, one) => sum + one, 0) / Math.max(all.length, 1);
      const most = Math.max(...gates.map((gate) => gate.most), 1);
      this.set("learners", "learners", mean.toFixed(2), `of ${most} at a gate, on average`, mean);
    }
    const last = layers.filter(({ kind, reached }) => kind === "kept" && reached).at(-1);
    if (last !== undefined) {
      const kept = last.values.filter((one) => one === 1).length;
      this.set("kept", "tokens kept", String(kept), `of ${last.values.length}`, kept);
    }
  }

  private compare(): void {
    const dense = this.denseMs;
    if (dense === null || this.latencies.length === 0) return;
    const factor = dense / median(this.latencies);
    const times = factor >= 1 ? `${factor.toFixed(1)}× faster` : `${(1 / factor).toFixed(1)}× slower`;
    this.set("dense", this.denseName, milliseconds(dense), `adaptive is ${times}`, dense);
  }

  private set(key: string, title: string, value: string, note: string, exact: number): void {
    const tile = this.tiles.get(key) ?? this.add(key, title);
    tile.value.textContent = value;
    tile.value.dataset["value"] = String(exact);
    tile.note.textContent = note;
  }

  private add(key: string, title: string): { readonly value: HTMLElement; readonly note: HTMLElement } {
    const [tile, term] = [document.createElement("div"), document.createElement("dt")];
    const [value, note] = [document.createElement("dd"), document.createElement("dd")];
    tile.className = "figure";
    value.id = `figure-${key}`;
    value.className = "value";
    note.className = "note";
    term.textContent = title;
    tile.append(term, value, note);
    this.root.append(tile);
    const made = { value, note };
    this.tiles.set(key, made);
    return made;
  }
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)}%`;
}

/** Three digits that count. */
export function milliseconds(value: number): string {
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
}
