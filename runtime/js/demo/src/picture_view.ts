/** A picture with what was decided for its patches drawn over it. */

import { colourOf, css, DROPPED } from "./colour_scale.js";
import type { Layer } from "./decision_layers.js";
import { patchGrid } from "./patch_grid.js";
import type { Rgba } from "./picture_input.js";

/** Edges of the canvases, in device pixels at least. */
const LARGE = 640;
const SMALL = 96;
/** Pictures of fewer pixels are drawn with their pixels visible. */
const SMOOTH_FROM = 96;
const TINT = 0.55;
const DIMMED = 0.8;

/** Draws it large, and small on the buttons that choose a layer. */
export class PictureView {
  private pixels: HTMLCanvasElement | null = null;

  constructor(private readonly canvas: HTMLCanvasElement) {}

  /** Another picture, as the model sees it. */
  show({ width, height, data }: Rgba): void {
    const pixels = document.createElement("canvas");
    [pixels.width, pixels.height] = [width, height];
    pixels.getContext("2d")!.putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0);
    this.pixels = pixels;
    this.draw(null);
  }

  /** Whether the tokens of a layer are patches of this picture. */
  fits(layer: Layer): boolean {
    return this.pixels !== null && patchGrid(layer.values.length, this.pixels.height, this.pixels.width) !== null;
  }

  /** The picture under a layer; null: alone. */
  draw(layer: Layer | null): void {
    this.drawInto(this.canvas, layer, LARGE);
  }

  /** The same, small. */
  drawThumbnail(canvas: HTMLCanvasElement, layer: Layer | null): void {
    this.drawInto(canvas, layer, SMALL);
  }

  private drawInto(canvas: HTMLCanvasElement, layer: Layer | null, edge: number): void {
    const { pixels } = this;
    if (pixels === null) return;
    const grid = layer === null ? null : patchGrid(layer.values.length, pixels.height, pixels.width);
    const scale = edge / Math.max(pixels.width, pixels.height);
    const [across, down] = [Math.round(pixels.width * scale), Math.round(pixels.height * scale)];
    // Setting a size takes new memory, even where it is the same.
    if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
    const context = canvas.getContext("2d")!;
    context.imageSmoothingEnabled = Math.max(pixels.width, pixels.height) >= SMOOTH_FROM;
    context.imageSmoothingQuality = "high";
    context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
    if (layer === null || grid === null) return;
    if (!layer.reached) {
      context.fillStyle = "rgb(128 134 145 / 0.85)";
      context.fillRect(0, 0, canvas.width, canvas.height);
      return;
    }
    const [width, height] = [canvas.width / grid.columns, canvas.height / grid.rows];
    const gap = edge === LARGE ? 1.5 : 0;
    for (let patch = 0; patch < grid.rows * grid.columns; patch++) {
      const fill = fillOf(layer, layer.values[grid.first + patch]!);
      if (fill === null) continue;
      const [x, y] = [(patch % grid.columns) * width, Math.floor(patch / grid.columns) * height];
      context.fillStyle = fill;
      context.fillRect(x + gap, y + gap, width - 2 * gap, height - 2 * gap);
    }
  }
}

/** What is laid over a token; null: nothing. */
function fillOf({ kind, most }: Layer, value: number): string | null {
  if (kind === "kept") return value === 1 ? null : css(DROPPED, DIMMED);
  return value < 0 ? css(DROPPED, DIMMED) : css(colourOf(value / most), TINT);
}
