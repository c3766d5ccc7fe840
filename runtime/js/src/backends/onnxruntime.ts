/** ONNX Runtime: `onnxruntime-node`, or `onnxruntime-web` with WebAssembly. */

import { BackendError, oneLine } from "../errors.js";
import { listed } from "../message_text.js";
import type { Dtype, Tensor, TypedArray } from "../tensor.js";

/** A tensor of ONNX Runtime. */
export interface OrtTensor {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: unknown;
}

/** An input or output as ONNX Runtime describes it. */
export interface OrtMetadata {
  readonly name: string;
  readonly isTensor: boolean;
  readonly type?: string;
  readonly shape?: readonly (number | string)[];
}

/** A loaded graph of ONNX Runtime. */
export interface OrtSession {
  readonly inputMetadata: readonly OrtMetadata[];
  readonly outputMetadata: readonly OrtMetadata[];
  run(feeds: Record<string, OrtTensor>, fetches: readonly string[]): Promise<Record<string, OrtTensor>>;
  release(): Promise<void>;
}

/** What is used of the module `onnxruntime-node` or `onnxruntime-web`. */
export interface Onnxruntime {
  readonly InferenceSession: { create(model: Uint8Array, options: Record<string, unknown>): Promise<OrtSession> };
  readonly Tensor: new (type: never, data: never, dims: readonly number[]) => OrtTensor;
  readonly env: {
    readonly versions: { readonly node?: string; readonly web?: string };
    readonly wasm: { numThreads?: number; wasmPaths?: unknown };
  };
}

/** How to run the graphs. */
export interface EngineSettings {
  /** An execution provider's name: `cpu` (node), `wasm` (the default in browsers), or another of the module's. */
  readonly provider: string;
  /** That one operator may use; undefined leaves it to ONNX Runtime, and is 1 with WebAssembly. */
  readonly threads?: number | undefined;
}

/** A stage's file and what it refers to. */
export interface StageProgram {
  /** Its path in the bundle, for messages. */
  readonly file: string;
  readonly model: Uint8Array;
  readonly externalData: readonly { readonly path: string; readonly data: Uint8Array }[];
  /** Whether it is the only stage. */
  readonly alone: boolean;
}

/** A graph's description of a tensor; an axis without a name is `?`. */
export interface GraphTensor {
  readonly dtype: string;
  readonly shape: readonly (number | string)[];
}

/** Log level: what ONNX Runtime would print below it comes as an exception as well. */
const FATAL = 4;

/** The name and version of a module, as profiles are kept by. */
export function engineVersion(ort: Onnxruntime, settings: EngineSettings): string {
  const { node, web } = ort.env.versions;
  return `onnxruntime-${node === undefined ? `web ${web}` : `node ${node}`} ${settings.provider}`;
}

/** One stage in a session. */
export class OnnxruntimeEngine {
  readonly inputs: ReadonlyMap<string, GraphTensor>;
  readonly outputs: ReadonlyMap<string, GraphTensor>;

  private constructor(
    private readonly ort: Onnxruntime,
    private readonly session: OrtSession,
    private readonly file: string,
    readonly version: string,
  ) {
    this.inputs = described(session.inputMetadata);
    this.outputs = described(session.outputMetadata);
  }

  /**
   * Load a stage. Its bytes go to ONNX Runtime as they are, so what runs is what was verified.
   *
   * @throws BackendError ONNX Runtime refuses the model or a setting.
   */
  static async create(ort: Onnxruntime, program: StageProgram, settings: EngineSettings): Promise<OnnxruntimeEngine> {
    const version = engineVersion(ort, settings);
    const { threads, provider } = settings;
    const options: Record<string, unknown> = { executionProviders: [provider], logSeverityLevel: FATAL };
    if (provider === "wasm")
      ort.env.wasm.numThreads = threads ?? 1; // read when the first session is made
    else if (threads !== undefined) options.intraOpNumThreads = threads;
    // Threads that spin in one stage's pool would take the cores from the next.
    if (!program.alone && threads !== 1) options.extra = { session: { force_spinning_stop: "1" } };
    if (program.externalData.length > 0) options.externalData = program.externalData;
    let session: OrtSession;
    try {
      session = await ort.InferenceSession.create(program.model, options);
    } catch (error) {
      throw new BackendError(
        `${program.file}: ${version} refuses it (${oneLine(error)}); ` +
          "export the model again, or install another version",
      );
    }
    return new OnnxruntimeEngine(ort, session, program.file, version);
  }

  /**
   * Execute on checked inputs; the wanted outputs by name.
   *
   * @throws BackendError an operator failed, or memory ran out.
   */
  async run(feeds: Record<string, OrtTensor>, wanted: readonly string[]): Promise<Record<string, OrtTensor>> {
    try {
      return await this.session.run(feeds, wanted);
    } catch (error) {
      const shapes = Object.entries(feeds).map(([name, value]) => `${name} ${listed(value.dims)}`);
      throw new BackendError(
        `${this.file}: ${this.version} failed on ${shapes.join(", ")} (${oneLine(error)}); ` +
          "run `adaptrt verify` on the bundle, or feed a smaller batch if memory ran out",
      );
    }
  }

  /** A tensor as ONNX Runtime takes it; nothing is copied. */
  value(tensor: Tensor): OrtTensor {
    return new this.ort.Tensor(tensor.dtype as never, tensor.data as never, tensor.shape);
  }

  /** Free the session. */
  async close(): Promise<void> {
    await this.session.release();
  }
}

/** A tensor of ONNX Runtime on the host; nothing is copied. */
export function tensorOf(value: OrtTensor): Tensor {
  return { dtype: value.type as Dtype, shape: value.dims, data: value.data as TypedArray };
}

function described(metadata: readonly OrtMetadata[]): Map<string, GraphTensor> {
  return new Map(
    metadata.map(({ name, type, shape }) => {
      const sizes = (shape ?? []).map((size) => (size === "" || size === undefined ? "?" : size));
      return [name, { dtype: type ?? "no tensor", shape: sizes }];
    }),
  );
}
