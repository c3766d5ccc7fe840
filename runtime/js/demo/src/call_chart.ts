/** The latest calls: what each took, and which share of the work it did. */

const CALLS = 80;
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44;
const RIGHT = 8;
const PANEL = 96;
const GAP = 30;
const TOP = 20;
/** Of the latencies, above which single ones leave the picture: the slowest would squash all others. */
const SHOWN_SHARE = 0.97;

/** One call. */
export interface ChartedCall {
  readonly latencyMs: number;
  readonly work: number;
  /** The budget that held; null: of the other unit. */
  readonly budgetMs: number | null;
  readonly budgetShare: number | null;
}

/** Draws two lines over the calls, one above the other, and those of the budget and the dense model. */
export class CallChart {
  private calls: ChartedCall[] = [];
  private denseMs: number | null = null;

  constructor(private readonly root: SVGSVGElement) {
    new ResizeObserver(() => this.draw()).observe(root);
  }

  add(call: ChartedCall): void {
    this.calls = [...this.calls, call].slice(-CALLS);
    this.draw();
  }

  /** Milliseconds of the dense model. */
  dense(milliseconds: number): void {
    this.denseMs = milliseconds;
    this.draw();
  }

  private draw(): void {
    const width = Math.max(this.root.clientWidth, 200);
    const height = TOP + 2 * PANEL + GAP + 6;
    this.root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const sorted = this.calls.map(({ latencyMs }) => latencyMs).sort((one, other) => one - other);
    const high = sorted[Math.floor(SHOWN_SHARE * (sorted.length - 1))] ?? 1;
    const budget = Math.max(...this.calls.map(({ budgetMs }) => budgetMs ?? 0), 0);
    const mostMs = roundUp(1.15 * Math.max(high, this.denseMs ?? 0, budget));
    const mostWork = roundUp(Math.max(1, ...this.calls.map(({ work }) => work)));
    const x = (place: number): number =>
      LEFT + ((width - LEFT - RIGHT) * (place + CALLS - this.calls.length)) / (CALLS - 1);
    const panel = (top: number, most: number) => (value: number) => top + PANEL * (1 - Math.min(value / most, 1));
    const [time, work] = [panel(TOP, mostMs), panel(TOP + PANEL + GAP, mostWork)];
    const line = (values: readonly (number | null)[], y: (value: number) => number): string =>
      path(values.map((value, place) => (value === null ? null : ([x(place), y(value)] as const))));
    this.root.replaceChildren(
      ...axis("latency, ms", TOP, mostMs, (value) => `${value}`, width),
      ...axis(
        "work, % of the dense model",
        TOP + PANEL + GAP,
        mostWork,
        (value) => `${Math.round(100 * value)}`,
        width,
      ),
      ...(this.denseMs === null ? [] : this.denseLine(width, time(this.denseMs))),
      shape("path", {
        class: "budget-line",
        d: line(
          this.calls.map(({ budgetMs }) => budgetMs),
          time,
        ),
      }),
      shape("path", {
        class: "budget-line",
        d: line(
          this.calls.map(({ budgetShare }) => budgetShare),
          work,
        ),
      }),
      shape("path", {
        class: "call-line",
        d: line(
          this.calls.map(({ latencyMs }) => latencyMs),
          time,
        ),
      }),
      shape("path", {
        class: "call-line",
        d: line(
          this.calls.map((call) => call.work),
          work,
        ),
      }),
      ...this.latest(x, time, work),
    );
    this.root.dataset["calls"] = String(this.calls.length);
  }

  private denseLine(width: number, y: number): SVGElement[] {
    return [shape("line", { class: "dense-line", x1: LEFT, x2: width - RIGHT, y1: y, y2: y })];
  }

  private latest(
    x: (place: number) => number,
    time: (value: number) => number,
    work: (value: number) => number,
  ): SVGElement[] {
    const last = this.calls.at(-1);
    if (last === undefined) return [];
    const cx = x(this.calls.length - 1);
    return [time(last.latencyMs), work(last.work)].map((cy) => shape("circle", { class: "call-dot", cx, cy, r: 3.5 }));
  }
}

function axis(title: string, top: number, most: number, text: (value: number) => string, width: number): SVGElement[] {
  const heading = shape("text", { class: "chart-title", x: 0, y: top - 8 });
  heading.textContent = title;
  const lines = [0, most / 2, most].flatMap((value) => {
    const y = top + PANEL * (1 - value / most);
    const label = shape("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" });
    label.textContent = text(value);
    return [shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }), label];
  });
  return [heading, ...lines];
}

function shape(name: string, attributes: Readonly<Record<string, string | number>>): SVGElement {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

/** A line through points, with gaps where there is none. */
function path(points: readonly (readonly [number, number] | null)[]): string {
  let pen = "M";
  return points
    .map((point) => {
      if (point === null) {
        pen = "M";
        return "";
      }
      const part = `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}

/** The next number that reads well: 1, 1.2, 1.6, 2, 3, 4, 5, 6, 8 or 10 of its power of ten. */
function roundUp(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((one) => one * power >= value - 1e-9)!;
  return Number((factor * power).toPrecision(3));
}
