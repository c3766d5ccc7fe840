/**
 * A picture as a model's input, as the bundle's preprocessing says: what the Python runtime makes of the same pixels.
 *
 * A browser hands colours that are partly transparent out rounded; those may differ by a step of their 255.
 */

import type { ImagePreprocessing, TensorSpec } from "../../src/bundle/schema.js";
import { InputError } from "../../src/errors.js";
import { type Dtype, filled, type Tensor } from "../../src/tensor.js";
import { type Pixels, resized } from "./pillow_resize.js";

/** Of a picture, before and after it was resized; as in Python. */
export const MOST_PIXELS = 2 ** 26;

/** A picture as a browser hands it out: red, green, blue and alpha of each pixel. */
export interface Rgba {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8ClampedArray | Uint8Array;
}

/** What a model takes, and how it looks. */
export interface PictureInput {
  /** [1, channels, height, width] of the input's dtype. */
  readonly tensor: Tensor;
  /** The same pixels before they were scaled, at the input's size. */
  readonly shown: Rgba;
}

/**
 * Make the input.
 *
 * @param spec an input that has a preprocessing.
 * @throws InputError it would become too large.
 */
export function pictureInput(picture: Rgba, spec: TensorSpec): PictureInput {
  const recipe = spec.preprocessing!;
  const whole = ofChannels(picture, recipe);
  const { width, height } = sizeAfter(whole.width, whole.height, recipe);
  if (width * height > MOST_PIXELS || recipe.width * recipe.height > MOST_PIXELS) {
    throw new InputError(
      `the picture has ${whole.width} x ${whole.height} pixels and would become ${width} x ${height}, expected at ` +
        `most ${MOST_PIXELS} pixels; crop it`,
    );
  }
  const right = whole.width === width && whole.height === height;
  const pixels = centred(right ? whole : resized(whole, width, height, recipe.resample), recipe.width, recipe.height);
  return { tensor: normalised(pixels, recipe, spec.dtype as Dtype), shown: coloured(pixels) };
}

/** Laid over the background where it is not opaque, and grey or RGB; rounded as Pillow rounds. */
function ofChannels({ width, height, data }: Rgba, { channels, background }: ImagePreprocessing): Pixels {
  const pixels = new Uint8Array(width * height * channels);
  const ground = [0, 1, 2].map((channel) => background[background.length === 3 ? channel : 0]!);
  const colour = [0, 0, 0];
  for (let pixel = 0; pixel < width * height; pixel++) {
    const alpha = data[4 * pixel + 3]!;
    for (let channel = 0; channel < 3; channel++) {
      const value = data[4 * pixel + channel]!;
      colour[channel] = alpha === 255 ? value : blended(value, ground[channel]!, alpha);
    }
    const [red, green, blue] = colour as [number, number, number];
    if (channels === 1) pixels[pixel] = (red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16;
    else pixels.set(colour, 3 * pixel);
  }
  return { width, height, channels, data: pixels };
}

function blended(value: number, ground: number, alpha: number): number {
  const sum = 128 * (value * alpha + ground * (255 - alpha)) + (0x80 << 7);
  return (((sum >> 8) + sum) >> 8) >> 7;
}

function sizeAfter(width: number, height: number, recipe: ImagePreprocessing): { width: number; height: number } {
  const { resize, size } = recipe;
  if (resize === "none") return { width, height };
  if (resize === "stretch") return { height: size[0] ?? recipe.height, width: size[1] ?? recipe.width };
  const edge = size[0]!;
  if (width <= height) return { width: edge, height: Math.trunc((edge * height) / width) };
  return { width: Math.trunc((edge * width) / height), height: edge };
}

/** The middle of a picture, with pixels of 0 around it where it is smaller; an odd one goes before. */
function centred(pixels: Pixels, width: number, height: number): Pixels {
  if (pixels.width === width && pixels.height === height) return pixels;
  const { channels } = pixels;
  const data = new Uint8Array(width * height * channels);
  const start = (given: number, wanted: number): number =>
    given > wanted ? (given - wanted) >> 1 : -Math.ceil((wanted - given) / 2);
  const [left, top] = [start(pixels.width, width), start(pixels.height, height)];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const [y, x] = [row + top, column + left];
      if (y < 0 || x < 0 || y >= pixels.height || x >= pixels.width) continue;
      for (let channel = 0; channel < channels; channel++) {
        data[(row * width + column) * channels + channel] = pixels.data[(y * pixels.width + x) * channels + channel]!;
      }
    }
  }
  return { width, height, channels, data };
}

/** `(pixel * scale - mean) / std` of every value once: the product in float64, the rest in float32. */
function normalised(pixels: Pixels, recipe: ImagePreprocessing, dtype: Dtype): Tensor {
  const { width, height, channels, data } = pixels;
  const values = new Float32Array(channels * width * height);
  const [mean, std] = [recipe.mean, recipe.std].map((all) => all.map(Math.fround)) as [number[], number[]];
  for (let channel = 0; channel < channels; channel++) {
    const place = Math.min(channel, mean.length - 1);
    const [middle, spread] = [mean[place]!, std[Math.min(channel, std.length - 1)]!];
    const table = Float32Array.from({ length: 256 }, (_, pixel) =>
      Math.fround(Math.fround(Math.fround(pixel * recipe.scale) - middle) / spread),
    );
    const read = recipe.order === "bgr" ? channels - 1 - channel : channel;
    for (let pixel = 0; pixel < width * height; pixel++) {
      values[channel * width * height + pixel] = table[data[pixel * channels + read]!]!;
    }
  }
  const shape = [1, channels, height, width];
  return dtype === "float32" ? { dtype, shape, data: values } : filled(dtype, shape, Array.from(values));
}

function coloured({ width, height, channels, data }: Pixels): Rgba {
  const rgba = new Uint8ClampedArray(4 * width * height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      rgba[4 * pixel + channel] = data[pixel * channels + (channels === 1 ? 0 : channel)]!;
    }
    rgba[4 * pixel + 3] = 255;
  }
  return { width, height, data: rgba };
}
