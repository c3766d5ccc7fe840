/** Serves the repository to a browser, from this machine to this machine. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/** A server of folders by the first part of the path; `requests` are the paths that were asked for. */
export async function serveFolders(folders) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    requests.push(path);
    const [, first, ...rest] = path.split("/");
    const inside = normalize(join("/", ...rest));
    try {
      const content = await readFile(join(folders[first], inside));
      response.writeHead(200, {
        "content-type": TYPES[extname(inside)] ?? "application/octet-stream",
        "content-length": content.length,
      });
      response.end(content);
    } catch {
      response.writeHead(404);
      response.end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  return { address: `http://localhost:${port}`, requests, close: () => server.close() };
}
