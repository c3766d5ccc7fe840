/** Ascending numbers: finding a place among them, and their middle. */

/** The index of the last that is at most `value`; -1 where all are above. */
export function lastAtMost(sorted: readonly number[], value: number): number {
  return firstAbove(sorted, value) - 1;
}

/** The index of the first that is above `value`. */
export function firstAbove(sorted: readonly number[], value: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value < sorted[middle]!) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The index of the first that is not below `value`. */
export function firstNotBelow(sorted: readonly number[], value: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The middle one, or the mean of both. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Between order statistics, linearly, as numpy does. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((one, other) => one - other);
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  const [below, above] = [sorted[low]!, sorted[Math.min(low + 1, sorted.length - 1)]!];
  return place === low ? below : place - low === 0.5 ? (below + above) / 2 : below + (above - below) * (place - low);
}

/** The mean. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index]!;
  return sum / values.length;
}
