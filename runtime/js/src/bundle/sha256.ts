/** SHA-256, by the platform's own implementation. */

import { BundleError } from "../errors.js";

/**
 * The hash of bytes, 64 lowercase hexadecimal digits.
 *
 * @throws BundleError the page has none to offer, as browsers hide it from pages that others could have changed.
 */
export async function sha256(bytes: Uint8Array): Promise<string> {
  const subtle: SubtleCrypto | undefined = globalThis.crypto?.subtle;
  if (subtle === undefined) {
    throw new BundleError(
      "got a page without crypto.subtle, expected one served over https or from localhost, as files are checked by " +
        "their hashes; serve it so",
    );
  }
  const digest = new Uint8Array(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
