/** Buttons that choose which decisions are drawn. */

import type { Layer } from "./decision_layers.js";

/** Draws a layer, null for none. */
export interface LayerView {
  fits(layer: Layer): boolean;
  draw(layer: Layer | null): void;
  thumbnail?(layer: Layer | null): HTMLElement;
}

/** One button for the input alone, and one for each layer. */
export class LayerChooser {
  private layers: readonly Layer[] = [];
  private buttons: HTMLButtonElement[] = [];
  /** By its title, which stays the same from call to call; null: none. */
  private chosen: string | null | undefined;

  constructor(
    private readonly root: HTMLElement,
    private readonly view: LayerView,
    private readonly onChoice: (layer: Layer | null) => void,
  ) {}

  /** Other layers: those that do not belong to the input's tokens are left out. */
  show(layers: readonly Layer[]): void {
    this.layers = layers.filter((layer) => this.view.fits(layer));
    if (this.chosen === undefined) this.chosen = this.layers[0]?.title ?? null;
    if (this.buttons.length !== this.layers.length + 1) this.makeButtons();
    for (const [place, button] of this.buttons.entries()) this.fill(button, this.layers[place - 1] ?? null);
    this.draw();
  }

  private makeButtons(): void {
    this.buttons = [null, ...this.layers].map((_, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "layer";
      button.addEventListener("click", () => {
        this.chosen = this.layers[place - 1]?.title ?? null;
        this.draw();
      });
      return button;
    });
    this.root.replaceChildren(...this.buttons);
    this.root.hidden = this.layers.length === 0;
  }

  private fill(button: HTMLButtonElement, layer: Layer | null): void {
    const [title, detail] = [document.createElement("span"), document.createElement("small")];
    title.textContent = layer?.title ?? "input";
    detail.textContent = layer?.detail ?? "alone";
    const picture = this.view.thumbnail?.(layer);
    button.replaceChildren(...(picture === undefined ? [] : [picture]), title, detail);
  }

  private draw(): void {
    const layer = this.layers.find(({ title }) => title === this.chosen) ?? null;
    for (const [place, button] of this.buttons.entries()) {
      button.setAttribute("aria-pressed", String((this.layers[place - 1] ?? null) === layer));
    }
    this.view.draw(layer);
    this.onChoice(layer);
  }
}
