/** Where a bundle's files come from. */

import { BundleError, oneLine } from "../errors.js";
import { AGAIN } from "./expectations.js";

/** How a file is read. */
export interface ReadOptions {
  /** Bytes that it may have. */
  readonly limit: number;
  /** Told how many bytes are there, and of how many if that is known. */
  readonly onBytes?: (loaded: number, total: number | null) => void;
  /** Ends the reading. */
  readonly signal?: AbortSignal;
}

/** A folder, an address, or whatever else has files by relative paths. */
export interface BundleSource {
  /** As messages call it. */
  readonly place: string;
  /** The content of a file; null where there is none. Throws where it is too large or cannot be read. */
  read(path: string, options: ReadOptions): Promise<Uint8Array | null>;
}

/** The error for a file that is too large. */
export function tooLarge(place: string, path: string, size: number | string, limit: number): BundleError {
  return new BundleError(`${place}/${path}: ${size} bytes, expected at most ${limit}; ${AGAIN}`);
}

/** A bundle at an address. */
export class UrlSource implements BundleSource {
  readonly place: string;
  private readonly base: URL;

  /** @param address of the folder, or of its `bundle.json`. */
  constructor(address: string | URL, relativeTo?: string) {
    const base = new URL(address, relativeTo);
    base.pathname = base.pathname.replace(/bundle\.json$/u, "").replace(/\/*$/u, "/");
    this.base = base;
    this.place = base.href.replace(/\/$/u, "");
  }

  async read(path: string, { limit, onBytes, signal }: ReadOptions): Promise<Uint8Array | null> {
    const address = new URL(path.split("/").map(encodeURIComponent).join("/"), this.base);
    address.search = this.base.search;
    try {
      const response = await fetch(address, signal === undefined ? {} : { signal });
      if (response.status === 404 || response.status === 410) return null;
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      return await content(response, limit, onBytes, (size) => tooLarge(this.place, path, size, limit));
    } catch (error) {
      if (error instanceof BundleError || signal?.aborted === true) throw error;
      throw new BundleError(
        `${this.place}/${path}: cannot be read (${oneLine(error)}); check the address, ` +
          "and that its server lets this page read it",
      );
    }
  }
}

/** A response's bytes, read piece by piece, so that progress can be told and no more than the limit is taken. */
async function content(
  response: Response,
  limit: number,
  onBytes: ReadOptions["onBytes"],
  refusal: (size: number | string) => BundleError,
): Promise<Uint8Array> {
  const length = Number(response.headers.get("content-length") ?? NaN);
  // What is compressed on the way has another length when it is there.
  const total = Number.isFinite(length) && response.headers.get("content-encoding") === null ? length : null;
  if (total !== null && total > limit) throw refusal(total);
  const pieces: Uint8Array[] = [];
  let loaded = 0;
  const reader = response.body?.getReader();
  for (let next = await reader?.read(); next !== undefined && !next.done; next = await reader!.read()) {
    pieces.push(next.value);
    loaded += next.value.length;
    if (loaded > limit) {
      await reader!.cancel();
      throw refusal(`more than ${limit}`);
    }
    onBytes?.(loaded, total);
  }
  const bytes = new Uint8Array(loaded);
  let place = 0;
  for (const piece of pieces) {
    bytes.set(piece, place);
    place += piece.length;
  }
  return bytes;
}
