/** The page: loads the bundle, and shows what it answers under the budget of the slider. */

import { BackendError, InputError, oneLine } from "../../src/errors.js";
import type { LoadProgress } from "../../src/loading.js";
import type { Tensors } from "../../src/inputs.js";
import { WorkerModel } from "../../src/worker/worker_model.js";
import { AnswerView } from "./answer_view.js";
import { BudgetControl } from "./budget_control.js";
import { CallChart } from "./call_chart.js";
import { CallLoop } from "./call_loop.js";
import { type Layer, layersOf } from "./decision_layers.js";
import type { DenseAnswer, DenseHandlers } from "./dense_worker.js";
import { Figures } from "./figures.js";
import { InputPanel, inputKind } from "./input_panel.js";
import type { InputHandlers } from "./input_worker.js";
import { LayerChooser } from "./layer_chooser.js";
import { readManifest } from "./manifest.js";
import { element, visible } from "./page_elements.js";
import { PictureView } from "./picture_view.js";
import { BUNDLE, startWorker } from "./places.js";
import { TokenView } from "./token_view.js";
import { WorkerCalls } from "./worker_calls.js";

/** Milliseconds after the last change until a screen reader is told. */
const SAID_AFTER_MS = 1500;

const status = element("status", HTMLElement);

function showError(error: unknown): void {
  const line = element("error", HTMLElement);
  line.textContent = oneLine(error);
  line.hidden = false;
}

function hideError(): void {
  visible("error", false);
}

async function load(): Promise<void> {
  const bar = element("progress", HTMLProgressElement);
  const onProgress = ({ share, phase, file }: LoadProgress): void => {
    bar.value = share;
    status.textContent = phase === "files" ? `Loading ${file}` : `Preparing ${file}`;
  };
  status.textContent = "Loading the model";
  if (!globalThis.isSecureContext) {
    throw new BackendError(
      `got a page from ${location.origin}, expected https or localhost, as only there a browser checks files by their ` +
        "hashes; serve it over https, or open it on the machine that serves it",
    );
  }
  const samples = await readManifest();
  const model = await WorkerModel.load(startWorker("model"), BUNDLE, {}, { onProgress });
  const kind = inputKind(model.bundle);
  const inputWorker = new WorkerCalls<InputHandlers>(startWorker("input"));
  const denseWorker = new WorkerCalls<DenseHandlers>(startWorker("dense"));
  status.textContent = "Loading the dense model";
  let remark = "";
  const withoutDense = (error: unknown): boolean => {
    remark = `No dense model beside it: ${oneLine(error)}`;
    return false;
  };
  const [hasDense] = await Promise.all([
    denseWorker.call("open", null).catch(withoutDense),
    inputWorker.call("open", null),
  ]);
  if (!hasDense) denseWorker.end();
  const dense = hasDense ? (inputs: Tensors): Promise<DenseAnswer> => denseWorker.call("run", inputs) : null;
  await start(model, kind, samples, inputWorker, dense, remark);
}

async function start(
  model: WorkerModel,
  kind: ReturnType<typeof inputKind>,
  samples: Awaited<ReturnType<typeof readManifest>>,
  inputWorker: WorkerCalls<InputHandlers>,
  dense: ((inputs: Tensors) => Promise<DenseAnswer>) | null,
  remark: string,
): Promise<void> {
  const { bundle } = model;
  document.title = `${bundle.name} – adaptrt`;
  element("name", HTMLElement).textContent = bundle.name;
  element("engine", HTMLElement).textContent = `${model.engine}, one thread, in this browser`;
  const other = dense === null ? "whole model" : "dense model";
  const figures = new Figures(element("figures", HTMLElement), bundle, other);
  const answers = new AnswerView(bundle, element("answers", HTMLTableElement), element("verdict", HTMLElement), other);
  const chart = new CallChart(element("chart", SVGSVGElement));
  const picture = new PictureView(element("picture", HTMLCanvasElement));
  const tokens = new TokenView(element("tokens", HTMLElement));
  const chooser = new LayerChooser(element("layers", HTMLElement), kind === "picture" ? picture : tokens, showScale);
  let inputs: Tensors | null = null;
  let saying = 0;

  const sayLater = (): void => {
    clearTimeout(saying);
    saying = window.setTimeout(() => {
      const of = (id: string): string => document.getElementById(id)?.textContent ?? "";
      const answer = element("answers", HTMLTableElement).querySelector(".best th")?.textContent ?? "";
      element("said", HTMLElement).textContent =
        `Budget ${budget.shown}: ${of("figure-work")} of the work, ${of("figure-latency")}. ${answer}`;
    }, SAID_AFTER_MS);
  };
  const loop = new CallLoop(model, dense ?? everything(model), {
    onCall(result) {
      hideError();
      figures.addCall(result);
      answers.showAdaptive(result.outputs);
      element("message", HTMLElement).textContent = result.message ?? remark;
      const work = result.macsFraction[0]!;
      const [budgetMs, budgetShare] = [budget.milliseconds, budget.share];
      chart.add({ latencyMs: result.latencyMs, work, budgetMs, budgetShare });
    },
    onDecisions(decisions) {
      const layers = layersOf(bundle, decisions);
      figures.showLayers(layers);
      chooser.show(layers);
    },
    onDense({ outputs, latencyMs }) {
      figures.addDense(latencyMs);
      answers.showDense(outputs);
      chart.dense(figures.denseMs ?? latencyMs);
    },
    onError: showError,
  });
  const use = async (given: Tensors): Promise<void> => {
    hideError();
    figures.restartDense();
    if (inputs === null) await warmUp(model, dense, given);
    inputs = given;
    loop.use(given);
    sayLater();
  };
  const measure = async (seconds: number, onProgress: (share: number) => void): ReturnType<WorkerModel["profile"]> => {
    if (inputs === null) throw new InputError("got no input yet, expected one to measure with; choose a sample");
    return model.profile(inputs, { seconds, onProgress });
  };
  const changed = (): void => {
    figures.restart();
    loop.change();
    sayLater();
  };
  const budget = new BudgetControl(model, budgetElements(), measure, changed, showError);
  const panel = new InputPanel(kind, samples, inputWorker, {
    async onPicture(read, name) {
      answers.clear();
      picture.show(read.shown);
      const { shown, width, height } = read;
      const seen = shown.width === width && shown.height === height ? "" : `, seen as ${shown.width} × ${shown.height}`;
      element("caption", HTMLElement).textContent = `${name}: ${width} × ${height} pixels${seen}`;
      await use(read.inputs);
    },
    async onText(text) {
      answers.clear(text.tokens);
      tokens.show(text.tokens);
      const count = text.tokens.filter((token) => token !== null).length;
      element("caption", HTMLElement).textContent =
        `${count} tokens${text.cut ? ", the text was too long and is cut" : ""}`;
      await use(text.inputs);
    },
    onError: showError,
  });
  listenToPause(loop);
  await panel.begin();
  visible("loading", false);
  visible("demo", true);
  document.documentElement.dataset["ready"] = "true";
}

/** Where there is no dense graph, everything running stands beside the answer. */
function everything(model: WorkerModel): (inputs: Tensors) => Promise<DenseAnswer> {
  const knobs = Object.fromEntries(model.bundle.knobs.map((knob) => [knob.name, knob.default]));
  return (inputs) => model.run(inputs, { knobs });
}

/** The first calls compile the graphs; they are not shown. */
async function warmUp(
  model: WorkerModel,
  dense: ((inputs: Tensors) => Promise<DenseAnswer>) | null,
  inputs: Tensors,
): Promise<void> {
  status.textContent = "Making the first call";
  try {
    for (let call = 0; call < 3; call++) {
      await model.run(inputs);
      await dense?.(inputs);
    }
  } catch (error) {
    showError(error);
  }
}

function showScale(layer: Layer | null): void {
  const drawn = layer !== null && layer.reached;
  const drops = drawn && layer.values.some((value) => (layer.kind === "kept" ? value === 0 : value < 0));
  visible("layer-scale", drawn);
  visible("scale-ramp", drawn && layer.kind !== "kept");
  visible("scale-dropped", drops);
  if (layer === null) return;
  element("scale-low", HTMLElement).textContent = "0";
  const learners = `${layer.most} learner${layer.most === 1 ? "" : "s"}`;
  element("scale-high", HTMLElement).textContent = layer.kind === "work" ? "all learners" : learners;
}

function budgetElements(): ConstructorParameters<typeof BudgetControl>[1] {
  return {
    slider: element("budget", HTMLInputElement),
    value: element("budget-value", HTMLOutputElement),
    hint: element("budget-hint", HTMLElement),
    low: element("budget-low", HTMLElement),
    high: element("budget-high", HTMLElement),
    units: [element("unit-share", HTMLInputElement), element("unit-time", HTMLInputElement)],
  };
}

function listenToPause(loop: CallLoop): void {
  const button = element("pause", HTMLButtonElement);
  let repeats = true;
  button.addEventListener("click", () => {
    repeats = !repeats;
    button.textContent = repeats ? "Pause" : "Go on calling";
    button.setAttribute("aria-pressed", String(!repeats));
    loop.repeat(repeats);
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) loop.repeat(repeats);
  });
}

visible("start", false);
visible("loading", true);
try {
  await load();
} catch (error) {
  visible("progress", false);
  status.textContent = "";
  showError(error);
}
