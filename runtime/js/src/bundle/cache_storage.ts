/** Files of bundles kept by the browser (Cache Storage), by their hashes: a file is fetched once, wherever it lies. */

import type { FileCache } from "./bundle_files.js";

const NAME = "adaptrt";

/** The browser's Cache Storage. What comes out of it is hashed again before it is used. */
export class CacheStorageFiles implements FileCache {
  private constructor(private readonly cache: Cache) {}

  /** Open it; null where the page may have none, as when it is not served over https or from localhost. */
  static async open(): Promise<CacheStorageFiles | null> {
    const storage: CacheStorage | undefined = (globalThis as { caches?: CacheStorage }).caches;
    try {
      return storage === undefined ? null : new CacheStorageFiles(await storage.open(NAME));
    } catch {
      return null; // turned off by the user
    }
  }

  async get(hash: string): Promise<Uint8Array | null> {
    try {
      const kept = await this.cache.match(address(hash));
      return kept === undefined ? null : new Uint8Array(await kept.arrayBuffer());
    } catch {
      return null;
    }
  }

  async put(hash: string, content: Uint8Array): Promise<void> {
    try {
      await this.cache.put(address(hash), new Response(content as Uint8Array<ArrayBuffer>));
    } catch {
      // There is no room: the file is fetched again next time.
    }
  }

  /** Forget all files but those of these hashes, as those that `bundle.json` names. */
  async keepOnly(hashes: Iterable<string>): Promise<void> {
    const kept = new Set([...hashes].map((hash) => address(hash)));
    for (const request of await this.cache.keys()) if (!kept.has(request.url)) await this.cache.delete(request);
  }
}

/** Under which a file is kept. Nothing is ever fetched from there. */
function address(hash: string): string {
  return new URL(`/.adaptrt/sha256/${hash}`, globalThis.location.origin).href;
}
