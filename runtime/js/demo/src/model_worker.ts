/** Runs the adaptive model for the page. */

import * as onnxruntime from "onnxruntime-web/wasm";

import { serve } from "../../src/worker/serve.js";
import { WASM } from "./places.js";

onnxruntime.env.wasm.wasmPaths = { wasm: WASM };
serve(onnxruntime);
