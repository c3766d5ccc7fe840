/** Buttons that choose which decisions are drawn. */

import type { Layer } from "./decision_layers.js";

/** Draws a layer, null for none. */
export interface LayerView {
  fits(layer: Layer): boolean;
  draw(layer: Layer | null): void;
  drawThumbnail?(canvas: HTMLCanvasElement, layer: Layer | null): void;
}

interface LayerButton {
  readonly button: HTMLButtonElement;
  readonly picture: HTMLCanvasElement;
  readonly title: HTMLElement;
  readonly detail: HTMLElement;
}

/** One button for the input alone, and one for each layer. */
export class LayerChooser {
  private layers: readonly Layer[] = [];
  private buttons: LayerButton[] = [];
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
      const [button, picture] = [document.createElement("button"), document.createElement("canvas")];
      const [title, detail] = [document.createElement("span"), document.createElement("small")];
      button.type = "button";
      button.className = "layer";
      button.append(...(this.view.drawThumbnail === undefined ? [] : [picture]), title, detail);
      button.addEventListener("click", () => {
        this.chosen = this.layers[place - 1]?.title ?? null;
        this.draw();
      });
      return { button, picture, title, detail };
    });
    this.root.replaceChildren(...this.buttons.map(({ button }) => button));
    this.root.hidden = this.layers.length === 0;
  }

  private fill({ picture, title, detail }: LayerButton, layer: Layer | null): void {
    title.textContent = layer?.title ?? "input";
    detail.textContent = layer?.detail ?? "alone";
    this.view.drawThumbnail?.(picture, layer);
  }

  private draw(): void {
    const layer = this.layers.find(({ title }) => title === this.chosen) ?? null;
    for (const [place, { button }] of this.buttons.entries()) {
      button.setAttribute("aria-pressed", String((this.layers[place - 1] ?? null) === layer));
    }
    this.view.draw(layer);
    this.onChoice(layer);
  }
}
