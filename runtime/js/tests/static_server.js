/** Serves folders and texts to a browser, from this machine to this machine. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/**
 * A server on localhost; `requests` are the paths that were asked for.
 *
 * @param folders by the beginning of the path, such as `/js`.
 * @param texts by their paths.
 */
export async function serveFolders(folders, texts = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    requests.push(path);
    const begin = Object.keys(folders).find((one) => path.startsWith(`${one}/`));
    try {
      const content = texts[path] ?? (await readFile(join(folders[begin], path.slice(begin.length))));
      response.writeHead(200, {
        "content-type": TYPES[extname(path)] ?? "application/octet-stream",
        "content-length": Buffer.byteLength(content),
      });
      response.end(content);
    } catch {
      response.writeHead(404);
      response.end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { address: `http://localhost:${server.address().port}`, requests, close: () => server.close() };
}
