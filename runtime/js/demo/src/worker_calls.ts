/** Calls from the page to a worker of its own, each answered once. */

import { AdaptrtError, BackendError, errorNamed, oneLine } from "../../src/errors.js";

interface CallMessage {
  readonly id: number;
  readonly name: string;
  readonly value: unknown;
}

type AnswerMessage =
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly error: { readonly name: string; readonly message: string } };

/** What is used of a worker's global object. */
interface Scope {
  postMessage(message: AnswerMessage): void;
  addEventListener(type: "message", listener: (event: MessageEvent<CallMessage>) => void): void;
}

/** What a worker does, by name. */
export type Handlers = Readonly<Record<string, (value: never) => Promise<unknown>>>;

/** In the worker: answer the page's calls. */
export function answerCalls(handlers: Handlers): void {
  const scope = globalThis as unknown as Scope;
  scope.addEventListener("message", ({ data: { id, name, value } }) => {
    void handlers[name]!(value as never).then(
      (answer) => scope.postMessage({ id, answer }),
      (error: unknown) => {
        const known = error instanceof AdaptrtError;
        scope.postMessage({
          id,
          error: known ? { name: error.name, message: error.message } : { name: "Error", message: oneLine(error) },
        });
      },
    );
  });
}

interface Waiting {
  resolve(answer: unknown): void;
  reject(error: Error): void;
}

/** In the page: call what a worker does. */
export class WorkerCalls<H extends Handlers> {
  private readonly waiting = new Map<number, Waiting>();
  private count = 0;

  constructor(private readonly worker: Worker) {
    worker.addEventListener("message", ({ data }: MessageEvent<AnswerMessage>) => {
      const waiting = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if ("error" in data) waiting?.reject(errorNamed(data.error.name, data.error.message));
      else waiting?.resolve(data.answer);
    });
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      const why = event.message || "it could not be started";
      for (const { reject } of this.waiting.values()) reject(new BackendError(`a worker failed (${why}); reload`));
      this.waiting.clear();
    });
  }

  call<N extends keyof H & string>(name: N, value: Parameters<H[N]>[0]): Promise<Awaited<ReturnType<H[N]>>> {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as Waiting["resolve"], reject });
      this.worker.postMessage({ id, name, value } satisfies CallMessage);
    });
  }

  end(): void {
    this.worker.terminate();
  }
}
