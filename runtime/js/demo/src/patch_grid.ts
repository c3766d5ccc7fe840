/** Where the tokens of a picture lie: a grid of patches, row by row, behind a class token where there is one. */

/** A grid of square patches. */
export interface PatchGrid {
  /** Tokens before the first patch. */
  readonly first: number;
  readonly rows: number;
  readonly columns: number;
}

/** The grid of so many tokens; null where they are no square patches. */
export function patchGrid(tokens: number, height: number, width: number): PatchGrid | null {
  for (const first of [0, 1]) {
    const patches = Math.max(tokens - first, 0);
    const rows = Math.round(Math.sqrt((patches * height) / width));
    const columns = rows > 0 ? Math.floor(patches / rows) : 0;
    if (patches > 0 && rows * columns === patches && rows * width === columns * height) return { first, rows, columns };
  }
  return null;
}
