/** Where the input comes from: a file that is dropped, chosen or pasted, a sample, or a text that is typed. */

import type { Bundle } from "../../src/bundle/schema.js";
import { BundleError, InputError } from "../../src/errors.js";
import type { InputHandlers, ReadPicture } from "./input_worker.js";
import type { Sample } from "./manifest.js";
import { element, visible } from "./page_elements.js";
import { sampleAddress } from "./places.js";
import type { TextInputs } from "./text_input.js";
import type { WorkerCalls } from "./worker_calls.js";

const TYPING_MS = 150;
const LONGEST_LABEL = 48;

/** What the page does with an input. */
export interface InputListener {
  onPicture(picture: ReadPicture, name: string): Promise<void>;
  onText(text: TextInputs): Promise<void>;
  onError(error: unknown): void;
}

export type InputKind = "picture" | "text";

/**
 * What the bundle takes.
 *
 * @throws BundleError neither one picture nor a text fills all of its inputs.
 */
export function inputKind({ inputs, text }: Bundle): InputKind {
  const names = inputs.map(({ name }) => name);
  if (text !== null && names.every((name) => Object.values(text.inputs).includes(name))) return "text";
  const spec = inputs[0];
  if (inputs.length === 1 && spec !== undefined && spec.preprocessing !== null && spec.shape.length === 4) {
    return "picture";
  }
  throw new BundleError(
    `the bundle takes ${names.join(", ")}, expected one picture or a text; this page shows no other bundle`,
  );
}

/** Listens to the page, and hands on what comes of the latest input. */
export class InputPanel {
  private latest = 0;
  private typing = 0;
  private buttons: HTMLButtonElement[] = [];

  constructor(
    private readonly kind: InputKind,
    private readonly samples: readonly Sample[],
    private readonly worker: WorkerCalls<InputHandlers>,
    private readonly listener: InputListener,
  ) {
    visible("picture-input", kind === "picture");
    visible("text-input", kind === "text");
    visible("layer-scale", false);
    if (kind === "picture") this.listenToFiles();
    else this.listenToText();
    this.offerSamples();
  }

  /** The first sample, or something to begin with where there is none. */
  async begin(): Promise<void> {
    const first = this.samples[0];
    if (first !== undefined) await this.useSample(first, 0);
    else if (this.kind === "picture") await this.usePicture(await greyPicture(), "a grey picture");
    else await this.useText("Hello");
  }

  private listenToFiles(): void {
    const input = element("file", HTMLInputElement);
    const zone = element("drop", HTMLElement);
    input.addEventListener("change", () => {
      void this.useFile(input.files?.[0]);
      input.value = "";
    });
    const over = (event: DragEvent, inside: boolean): void => {
      event.preventDefault();
      zone.classList.toggle("over", inside);
    };
    document.addEventListener("dragover", (event) => over(event, true));
    document.addEventListener("dragleave", (event) => over(event, event.relatedTarget !== null));
    document.addEventListener("drop", (event) => {
      over(event, false);
      void this.useFile(event.dataTransfer?.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (file !== undefined) void this.useFile(file);
    });
  }

  private listenToText(): void {
    const area = element("text", HTMLTextAreaElement);
    area.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.press(null);
      this.typing = window.setTimeout(() => void this.useText(area.value), TYPING_MS);
    });
  }

  private offerSamples(): void {
    this.buttons = this.samples.map((sample, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `sample ${this.kind}`;
      if (sample.picture !== undefined) {
        const picture = document.createElement("img");
        picture.src = sampleAddress(sample.picture);
        picture.alt = `sample ${place + 1}`;
        button.append(picture);
      } else {
        const text = sample.text ?? "";
        button.textContent = text.length > LONGEST_LABEL ? `${text.slice(0, LONGEST_LABEL)}…` : text;
      }
      button.addEventListener("click", () => void this.useSample(sample, place));
      return button;
    });
    element("samples", HTMLElement).replaceChildren(...this.buttons);
    visible("samples-heading", this.samples.length > 0);
  }

  private async useSample({ picture, text }: Sample, place: number): Promise<void> {
    if (text !== undefined) {
      element("text", HTMLTextAreaElement).value = text;
      await this.useText(text);
    } else if (picture !== undefined) {
      try {
        const response = await fetch(sampleAddress(picture));
        if (!response.ok) throw new InputError(`${picture} is missing; write the folder again with \`adaptrt demo\``);
        await this.usePicture(await response.blob(), `sample ${place + 1}`);
      } catch (error) {
        this.listener.onError(error);
      }
    }
    this.press(place);
  }

  private async useFile(file: File | undefined): Promise<void> {
    if (file === undefined) return;
    this.press(null);
    await this.usePicture(file, file.name);
  }

  private async usePicture(file: Blob, name: string): Promise<void> {
    const number = ++this.latest;
    try {
      const picture = await this.worker.call("picture", file);
      if (number === this.latest) await this.listener.onPicture(picture, name);
    } catch (error) {
      if (number === this.latest) this.listener.onError(error);
    }
  }

  private async useText(text: string): Promise<void> {
    const number = ++this.latest;
    try {
      const inputs = await this.worker.call("text", text);
      if (number === this.latest) await this.listener.onText(inputs);
    } catch (error) {
      if (number === this.latest) this.listener.onError(error);
    }
  }

  /** Which sample is in use. */
  private press(place: number | null): void {
    for (const [number, button] of this.buttons.entries()) {
      button.setAttribute("aria-pressed", String(number === place));
    }
  }
}

/** Something that every model of pictures takes. */
async function greyPicture(): Promise<Blob> {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 64];
  const context = canvas.getContext("2d")!;
  context.fillStyle = "#808080";
  context.fillRect(0, 0, 64, 64);
  return new Promise((resolve) => canvas.toBlob((blob) => resolve(blob!)));
}
