/** What is left of the tensors between two stages when some samples have left. */

import type { Carry } from "./bundle/schema.js";
import { cutAxis, takeRows } from "./tensor_rows.js";
import type { Tensor } from "./tensor.js";

/** An axis along which tokens lie, and the carried mask that says which of them are valid. */
interface TokenAxis {
  readonly axis: number;
  readonly mask: string;
}

/** How many tokens are left, by mask. */
export type Widths = ReadonlyMap<string, number>;

/** How to compact the tensors that one stage takes. */
export class Compaction {
  /** For each carried tensor the axes of tokens; none where nothing says which of them are valid. */
  readonly tokenAxes: ReadonlyMap<string, readonly TokenAxis[]>;
  private readonly masks: ReadonlySet<string>;

  /**
   * The tokens' axis is the second one of a mask, and goes by that name in the others.
   *
   * @param carried what the stage takes.
   * @param masks names of those that are masks.
   * @param whole axes that stay as they are, as outputs of the bundle have them.
   */
  constructor(carried: readonly Carry[], masks: ReadonlySet<string>, whole: ReadonlySet<number | string>) {
    const axes = new Map<string, string>();
    for (const { name, shape } of carried) {
      const size = shape[1];
      if (masks.has(name) && typeof size === "string" && !whole.has(size)) axes.set(size, name);
    }
    this.tokenAxes = new Map(
      carried.map(({ name, shape }) => {
        const found = shape.map((size, axis) => ({
          axis,
          mask: typeof size === "string" ? axes.get(size) : undefined,
        }));
        return [name, found.filter((one): one is TokenAxis => one.axis > 0 && one.mask !== undefined)];
      }),
    );
    this.masks = new Set([...this.tokenAxes.values()].flatMap((found) => found.map((one) => one.mask)));
  }

  /** Keep some samples, and no more tokens than the one with most of them needs; also how many are left, by mask. */
  apply(tensors: ReadonlyMap<string, Tensor>, rows: readonly number[]): { kept: Map<string, Tensor>; widths: Widths } {
    const widths = new Map([...this.masks].map((mask) => [mask, lastValid(tensors.get(mask)!, rows) + 1]));
    const kept = new Map([...tensors].map(([name, tensor]) => [name, this.cut(name, takeRows(tensor, rows), widths)]));
    return { kept, widths };
  }

  /** A carried tensor with so many tokens, by mask. */
  cut(name: string, tensor: Tensor, widths: Widths): Tensor {
    for (const { axis, mask } of this.tokenAxes.get(name) ?? []) tensor = cutAxis(tensor, axis, widths.get(mask)!);
    return tensor;
  }
}

/** The last column with a true value in some of the rows, 0 if there is none. */
function lastValid({ shape, data }: Tensor, rows: readonly number[]): number {
  const width = shape[1]!;
  let last = 0;
  for (const row of rows) {
    let column = width - 1;
    while (column > last && data[row * width + column] === 0) column--;
    last = Math.max(last, column);
  }
  return last;
}
