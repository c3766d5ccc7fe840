/**
 * The files of a bundle: read once, hashed, and the same bytes handed on.
 *
 * A hash guards against damage and mixed-up copies, and lets a file that was kept be used again without a doubt.
 */

import { BundleError, oneLine } from "../errors.js";
import { quoted } from "../message_text.js";
import type { BundleSource, ReadOptions } from "./bundle_source.js";
import { AGAIN, Invalid } from "./expectations.js";
import { decodeBundle } from "./json_form.js";
import { externalLocations, metadataProps } from "./onnx_file.js";
import { NoMessage } from "./protobuf_wire.js";
import { type Bundle, BUNDLE_FILE, type DataFile, type PreprocessingFile, STAGE_METADATA } from "./schema.js";
import { sha256 } from "./sha256.js";
import { checkBundle, checkRelativePath } from "./validation.js";

const MAX_BUNDLE_BYTES = 16 * 1024 * 1024;
/** The most that protobuf parses; larger models keep their weights beside the graph. */
const MAX_MODEL_BYTES = 2 ** 31 - 1;
/** The most that a typed array is sure to hold. */
const MAX_DATA_BYTES = 2 ** 32;
const MAX_PREPROCESSING_BYTES = 256 * 1024 * 1024;

/** Where files are kept by their hashes. */
export interface FileCache {
  /** The file of a hash; null where it is not kept. What comes is hashed again. */
  get(hash: string): Promise<Uint8Array | null>;
  /** Keep a file; what cannot be kept is left out. */
  put(hash: string, content: Uint8Array): Promise<void>;
}

/** Told of a file's bytes as they come; `cached` where none had to be fetched. */
export type FileProgress = (file: string, loaded: number, total: number | null, cached: boolean) => void;

/** Reads one bundle's files. */
export class BundleFiles {
  constructor(
    private readonly source: BundleSource,
    private readonly cache: FileCache | null,
    private readonly progress: FileProgress,
    private readonly signal: AbortSignal | undefined,
  ) {}

  get place(): string {
    return this.source.place;
  }

  /**
   * `bundle.json`, checked but for the files that it names, and its hash.
   *
   * @throws BundleError it is missing, truncated, of another format version, or of absurd size or content.
   */
  async readBundle(): Promise<{ bundle: Bundle; hash: string }> {
    const bytes = await this.source.read(BUNDLE_FILE, this.options(BUNDLE_FILE, MAX_BUNDLE_BYTES));
    if (bytes === null) {
      throw new BundleError(
        `no ${BUNDLE_FILE} in ${quoted(this.place)}; expected a bundle, as \`adaptrt export\` writes it`,
      );
    }
    try {
      const bundle = decodeBundle(bytes);
      checkBundle(bundle);
      return { bundle, hash: await sha256(bytes) };
    } catch (error) {
      if (error instanceof Invalid) throw new BundleError(`${this.place}/${BUNDLE_FILE}: ${error.message}`);
      throw error;
    }
  }

  /**
   * An ONNX file and the files of weights beside it, checked: what is returned is what was hashed and searched.
   *
   * @param spec which files.
   * @param place what the file must say its place among several stages is, `<i>/<n>`; null where it is the only one.
   * @param optional whether it may be missing, which gives null.
   * @throws BundleError a file is missing, altered, not an ONNX file, or another stage's, or refers to a file that is
   *   outside the folder or not listed.
   */
  async readGraph(
    spec: { readonly file: string; readonly sha256: string; readonly external_data: readonly DataFile[] },
    place: string | null,
    optional = false,
  ): Promise<{ model: Uint8Array; externalData: { path: string; data: Uint8Array }[] } | null> {
    const model = await this.readVerified(spec, MAX_MODEL_BYTES, optional);
    if (model === null) return null;
    this.checkGraph(
      model,
      spec.file,
      place,
      spec.external_data.map((data) => data.file),
    );
    const externalData = await Promise.all(
      spec.external_data.map(async (data) => {
        const content = await this.readVerified(data, MAX_DATA_BYTES);
        return { path: relativeTo(spec.file, data.file), data: content! };
      }),
    );
    return { model, externalData };
  }

  /**
   * A file that makes inputs, such as a tokenizer's.
   *
   * @throws BundleError it is missing, altered or too large.
   */
  async readPreprocessing(entry: PreprocessingFile): Promise<Uint8Array> {
    return (await this.readVerified(entry, MAX_PREPROCESSING_BYTES))!;
  }

  private options(file: string, limit: number): ReadOptions {
    const onBytes = (loaded: number, total: number | null): void => this.progress(file, loaded, total, false);
    return this.signal === undefined ? { limit, onBytes } : { limit, onBytes, signal: this.signal };
  }

  private async readVerified(
    { file, sha256: expected }: DataFile,
    limit: number,
    optional = false,
  ): Promise<Uint8Array | null> {
    const kept = (await this.cache?.get(expected)) ?? null;
    if (kept !== null && (await sha256(kept)) === expected) {
      this.progress(file, kept.length, kept.length, true);
      return kept;
    }
    const content = await this.source.read(file, this.options(file, limit));
    if (content === null) {
      if (optional) return null;
      throw new BundleError(
        `${this.place}: ${quoted(file)} is missing, expected the file that ${BUNDLE_FILE} names; copy the whole ` +
          `folder or ${AGAIN}`,
      );
    }
    const got = await sha256(content);
    if (got !== expected) {
      throw new BundleError(
        `${this.place}: ${quoted(file)} was changed or damaged: sha256 is ${got.slice(0, 12)}…, expected ` +
          `${expected.slice(0, 12)}…; copy the bundle again or ${AGAIN}`,
      );
    }
    this.progress(file, content.length, content.length, false);
    await this.cache?.put(expected, content);
    return content;
  }

  private checkGraph(model: Uint8Array, file: string, place: string | null, names: readonly string[]): void {
    let locations: Set<string>;
    let places: string[];
    try {
      locations = externalLocations(model);
      places = metadataProps(model, STAGE_METADATA);
    } catch (error) {
      if (!(error instanceof NoMessage)) throw error;
      throw new BundleError(`${this.place}: ${quoted(file)} is not an ONNX file (${oneLine(error)}); ${AGAIN}`);
    }
    if (place !== null && (places.length !== 1 || places[0] !== place)) {
      throw new BundleError(
        `${this.place}: ${quoted(file)} says that it is stage ` +
          `${places.map(quoted).join(" and ") || "of no number"} of its network (${STAGE_METADATA}), expected ` +
          `${quoted(place)}; the stages were mixed up: copy the bundle again or ${AGAIN}`,
      );
    }
    for (const location of [...locations].sort()) this.checkLocation(file, location, names);
  }

  /** Refuse a reference to a file of weights that is not listed. */
  private checkLocation(file: string, location: string, names: readonly string[]): void {
    const plain = location.replace(/^\.\//u, "");
    try {
      checkRelativePath(`${quoted(file)} keeps weights in another file`, plain);
    } catch (error) {
      if (error instanceof Invalid) throw new BundleError(`${this.place}: ${error.message}`);
      throw error;
    }
    const name = folderOf(file) + plain;
    if (names.includes(name)) return;
    throw new BundleError(
      `${this.place}: ${quoted(file)} keeps weights in ${quoted(name)}, expected one of the external_data files in ` +
        `${BUNDLE_FILE} (${[...names].sort().join(", ") || "none"}); ${AGAIN}`,
    );
  }
}

function folderOf(file: string): string {
  return file.slice(0, file.lastIndexOf("/") + 1);
}

/** A file's path as a graph beside it refers to it. */
function relativeTo(graph: string, file: string): string {
  const folder = folderOf(graph);
  return file.startsWith(folder) ? file.slice(folder.length) : file;
}
