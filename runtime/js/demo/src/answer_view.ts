/** The answer beside the dense model's. */

import type { Bundle } from "../../src/bundle/schema.js";
import { classes, cosine, type Likely, type Outputs, tokenClasses } from "./answers.js";

const MOST_CLASSES = 5;
const SURELY_LISTED = 3;
const MOST_TOKENS = 64;

/** Fills a table and the sentence above it. */
export class AnswerView {
  private adaptive: Outputs | null = null;
  private dense: Outputs | null = null;
  private tokens: readonly (string | null)[] = [];
  /** Which classes the table lists, so that its rows do not move while their numbers do. */
  private listed: number[] = [];

  constructor(
    private readonly bundle: Bundle,
    private readonly table: HTMLTableElement,
    private readonly verdict: HTMLElement,
    /** What stands beside the answer: `dense model`, or `whole model` where the bundle has no graph of it. */
    private readonly other: string,
  ) {}

  /** Another input: nothing is known of it. */
  clear(tokens: readonly (string | null)[] = []): void {
    this.tokens = tokens;
    [this.adaptive, this.dense, this.listed] = [null, null, []];
  }

  showAdaptive(outputs: Outputs): void {
    this.adaptive = outputs;
    this.draw();
  }

  showDense(outputs: Outputs): void {
    this.dense = outputs;
    this.draw();
  }

  private draw(): void {
    const { adaptive, dense, bundle } = this;
    if (adaptive === null) return;
    const scores = classes(bundle, adaptive);
    const perToken = tokenClasses(bundle, adaptive);
    if (scores !== null) this.drawClasses(scores, dense === null ? null : classes(bundle, dense));
    else if (perToken !== null) this.drawTokens(perToken, dense === null ? null : tokenClasses(bundle, dense));
    else this.drawNumbers(adaptive, dense);
  }

  private drawClasses(adaptive: readonly Likely[], dense: readonly Likely[] | null): void {
    const best = order(adaptive)[0]!;
    const wanted = dense === null ? null : order(dense)[0]!;
    const likely = order(adaptive).map(({ label }) => label);
    // The rows stay where they are for as long as they list what is likeliest.
    if (!likely.slice(0, SURELY_LISTED).every((label) => this.listed.includes(label))) {
      this.listed = likely.slice(0, MOST_CLASSES);
    }
    if (wanted !== null && !this.listed.includes(wanted.label)) this.listed = [...this.listed, wanted.label];
    const labels = this.listed.slice(0, MOST_CLASSES + 1);
    this.fill(
      "class",
      labels.map((label) => [adaptive[label]!.name, adaptive[label]!, dense?.[label] ?? null, label === best.label]),
    );
    this.say(wanted === null ? null : wanted.label === best.label, `The ${this.other} says ${wanted?.name ?? ""}`);
  }

  private drawTokens(adaptive: readonly Likely[], dense: readonly Likely[] | null): void {
    const real = [...adaptive.keys()].filter((token) => (this.tokens[token] ?? null) !== null);
    const same = real.filter((token) => dense?.[token]?.label === adaptive[token]!.label).length;
    const rows = real.slice(0, MOST_TOKENS);
    this.fill(
      "token",
      rows.map((token) => [this.tokens[token]!, adaptive[token]!, dense?.[token] ?? null, false]),
      true,
    );
    const all = same === real.length;
    this.say(dense === null ? null : all, `${same} of ${real.length} tokens as the ${this.other} says`);
  }

  private drawNumbers(adaptive: Outputs, dense: Outputs | null): void {
    const shapes = Object.entries(adaptive).map(([name, { shape }]) => `${name} ${shape.join(" × ")}`);
    this.table.replaceChildren();
    const near = dense === null ? NaN : cosine(adaptive, dense);
    const compared = Number.isNaN(near) ? "" : `Cosine to the ${this.other}: ${near.toFixed(3)}`;
    this.verdict.textContent = compared || `Numbers: ${shapes.join(", ")}`;
    this.verdict.title = shapes.join(", ");
    this.verdict.className = "verdict";
    this.verdict.dataset["value"] = String(near);
  }

  private say(same: boolean | null, otherwise: string): void {
    this.verdict.className = same === null ? "verdict" : same ? "verdict same" : "verdict differs";
    this.verdict.textContent = same === null ? "" : same ? `Same answer as the ${this.other}` : otherwise;
  }

  private fill(
    heading: string,
    rows: readonly (readonly [string, Likely, Likely | null, boolean])[],
    named = false,
  ): void {
    const [head, body] = [document.createElement("thead"), document.createElement("tbody")];
    head.append(row("th", [heading, "adaptive", this.other].map(textNode)));
    for (const [name, adaptive, dense, best] of rows) {
      const cells = [textNode(name), bar(adaptive, "adaptive", named), bar(dense, "dense", named)];
      const line = row("td", cells);
      line.classList.toggle("best", best);
      line.dataset["name"] = name;
      body.append(line);
    }
    this.table.replaceChildren(head, body);
  }
}

function order(likely: readonly Likely[]): Likely[] {
  return [...likely].sort((one, other) => other.probability - one.probability || one.label - other.label);
}

function textNode(text: string): Node {
  return document.createTextNode(text);
}

function row(kind: "td" | "th", cells: readonly Node[]): HTMLTableRowElement {
  const line = document.createElement("tr");
  for (const [place, content] of cells.entries()) {
    const cell = document.createElement(place === 0 ? "th" : kind);
    cell.scope = kind === "th" ? "col" : place === 0 ? "row" : "";
    cell.append(content);
    line.append(cell);
  }
  return line;
}

/** A probability as a bar and in figures. */
function bar(likely: Likely | null, whose: string, named: boolean): HTMLElement {
  const whole = document.createElement("div");
  whole.className = `bar ${whose}`;
  const share = likely?.probability ?? 0;
  whole.style.setProperty("--share", String(share));
  const label = document.createElement("span");
  const percent = likely === null ? "" : `${(100 * share).toFixed(share > 0.995 || share < 0.0005 ? 0 : 1)}%`;
  label.textContent = named && likely !== null ? `${likely.name} ${percent}` : percent;
  if (likely !== null) whole.dataset["value"] = String(share);
  whole.append(label);
  return whole;
}
