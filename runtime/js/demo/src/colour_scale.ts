/** Colours of numbers: viridis, which is read alike in grey and by those who see fewer colours. */

const STOPS: readonly (readonly [number, number, number])[] = [
  [68, 1, 84],
  [72, 40, 120],
  [62, 74, 137],
  [49, 104, 142],
  [38, 130, 142],
  [31, 158, 137],
  [53, 183, 121],
  [110, 206, 88],
  [181, 222, 43],
  [253, 231, 37],
];

/** Of what was dropped. */
export const DROPPED: readonly [number, number, number] = [20, 26, 46];

/** The colour of a share from 0 to 1, red, green and blue. */
export function colourOf(share: number): readonly [number, number, number] {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const below = Math.min(Math.floor(place), STOPS.length - 2);
  const [one, other] = [STOPS[below]!, STOPS[below + 1]!];
  return [0, 1, 2].map((part) => one[part]! + (other[part]! - one[part]!) * (place - below)) as never;
}

/** As CSS writes it. */
export function css([red, green, blue]: readonly [number, number, number], alpha = 1): string {
  return `rgb(${Math.round(red)} ${Math.round(green)} ${Math.round(blue)} / ${alpha})`;
}

/** Whether dark letters are read better on it. */
export function isLight([red, green, blue]: readonly [number, number, number]): boolean {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}
