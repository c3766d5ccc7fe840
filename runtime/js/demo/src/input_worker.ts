/** Makes inputs of pictures and texts, apart from the page's thread: large pictures take their time. */

import { BundleFiles } from "../../src/bundle/bundle_files.js";
import { UrlSource } from "../../src/bundle/bundle_source.js";
import { CacheStorageFiles } from "../../src/bundle/cache_storage.js";
import { type Bundle, TOKENIZER_ROLE } from "../../src/bundle/schema.js";
import { InputError, oneLine } from "../../src/errors.js";
import type { Tensors } from "../../src/inputs.js";
import { MOST_PIXELS, pictureInput, type Rgba } from "./picture_input.js";
import { BUNDLE } from "./places.js";
import { TextInputEncoder, type TextInputs } from "./text_input.js";
import { answerCalls } from "./worker_calls.js";

const MOST_BYTES = 2 ** 27;

/** A picture, ready to run. */
export interface ReadPicture {
  readonly inputs: Tensors;
  readonly shown: Rgba;
  /** Of the file. */
  readonly width: number;
  readonly height: number;
}

let bundle: Bundle | null = null;
let encoder: TextInputEncoder | null = null;

async function open(): Promise<null> {
  const files = new BundleFiles(new UrlSource(BUNDLE), await CacheStorageFiles.open(), () => undefined, undefined);
  ({ bundle } = await files.readBundle());
  if (bundle.text !== null) {
    const entry = bundle.files.find(({ role }) => role === TOKENIZER_ROLE)!;
    encoder = new TextInputEncoder(bundle, await files.readPreprocessing(entry));
  }
  return null;
}

async function picture(file: Blob): Promise<ReadPicture> {
  if (file.size > MOST_BYTES) {
    throw new InputError(`the file has ${file.size} bytes, expected at most ${MOST_BYTES}; choose a smaller picture`);
  }
  const rgba = await decoded(file);
  const spec = bundle!.inputs.find(({ preprocessing }) => preprocessing !== null)!;
  const { tensor, shown } = pictureInput(rgba, spec);
  return { inputs: { [spec.name]: tensor }, shown, width: rgba.width, height: rgba.height };
}

/** Upright, with the colours that the file has. */
async function decoded(file: Blob): Promise<Rgba> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new InputError(
      `the file cannot be read as a picture (${oneLine(error)}), expected PNG, JPEG or another that the browser knows`,
    );
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    bitmap.close();
    throw new InputError(`the picture has ${width} x ${height} pixels, expected at most ${MOST_PIXELS}; crop it`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, data };
}

async function text(words: string): Promise<TextInputs> {
  return encoder!.encode(words);
}

const handlers = { open: (_: null) => open(), picture, text };
export type InputHandlers = typeof handlers;
answerCalls(handlers);
