/** The tokens of a text, coloured by what was decided for them. */

import { colourOf, css, isLight } from "./colour_scale.js";
import type { Layer } from "./decision_layers.js";

/** Draws them as a line of words. */
export class TokenView {
  private chips: HTMLElement[] = [];

  constructor(private readonly root: HTMLElement) {}

  /** Another text; null stands for a padded place. */
  show(tokens: readonly (string | null)[]): void {
    this.chips = tokens.map((token) => {
      const chip = document.createElement("span");
      chip.className = "token";
      chip.textContent = token ?? "·";
      return chip;
    });
    this.root.replaceChildren(...this.chips);
  }

  /** Whether a layer is about these tokens. */
  fits(layer: Layer): boolean {
    return layer.values.length === this.chips.length;
  }

  /** The tokens under a layer; null: alone. */
  draw(layer: Layer | null): void {
    for (const [place, chip] of this.chips.entries()) {
      const value = layer?.reached === true ? layer.values[place] : undefined;
      const dropped = value !== undefined && (layer!.kind === "kept" ? value === 0 : value < 0);
      const colour = value === undefined || dropped || layer!.kind === "kept" ? null : colourOf(value / layer!.most);
      chip.classList.toggle("dropped", dropped);
      chip.style.backgroundColor = colour === null ? "" : css(colour);
      chip.style.color = colour === null ? "" : isLight(colour) ? "#14181d" : "#ffffff";
      chip.title = value === undefined ? "" : dropped ? "dropped" : titleOf(layer!, value);
    }
  }
}

function titleOf({ kind, most }: Layer, value: number): string {
  if (kind === "kept") return "kept";
  return kind === "work" ? `${(100 * value).toFixed(0)}% of the learners` : `${value} of ${most} learners`;
}
