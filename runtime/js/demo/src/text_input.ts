/** A text as a model's inputs: by the bundle's tokenizer and what the bundle says of length and padding. */

import { Tokenizer } from "@huggingface/tokenizers";

import type { Bundle, TextPreprocessing, TensorSpec } from "../../src/bundle/schema.js";
import { BundleError, InputError, oneLine } from "../../src/errors.js";
import type { Tensors } from "../../src/inputs.js";
import { type Dtype, filled } from "../../src/tensor.js";

/** What a model takes, and what its tokens are called. */
export interface TextInputs {
  readonly inputs: Tensors;
  /** One for each position of the inputs; null at padded ones. */
  readonly tokens: readonly (string | null)[];
  /** Whether the text was too long. */
  readonly cut: boolean;
}

interface Encoded {
  readonly ids: readonly number[];
  readonly types: readonly number[];
}

/** Makes inputs of texts. */
export class TextInputEncoder {
  private readonly tokenizer: Tokenizer;
  private readonly recipe: TextPreprocessing;
  private readonly specs: ReadonlyMap<string, TensorSpec>;

  /**
   * @param bundle one that takes texts.
   * @param content of its tokenizer's file.
   * @throws BundleError the content is no tokenizer.
   */
  constructor(
    private readonly bundle: Bundle,
    content: Uint8Array,
  ) {
    this.recipe = bundle.text!;
    const named = new Map(bundle.inputs.map((spec) => [spec.name, spec]));
    this.specs = new Map(Object.entries(this.recipe.inputs).map(([role, name]) => [role, named.get(name)!]));
    try {
      const file = JSON.parse(new TextDecoder().decode(content)) as { model?: { unk_token?: unknown } };
      // Of models that list words it does not look there itself.
      const unknown = file.model?.unk_token;
      this.tokenizer = new Tokenizer(file, typeof unknown === "string" ? { unk_token: unknown } : {});
    } catch (error) {
      throw new BundleError(
        `the bundle's tokenizer cannot be used here (${oneLine(error)}), expected a tokenizer.json that ` +
          "@huggingface/tokenizers reads; export the model again",
      );
    }
  }

  /**
   * Inputs of one text, [1, tokens] each.
   *
   * @throws InputError it is too long and the bundle does not cut such, or the tokenizer refuses it.
   */
  encode(text: string): TextInputs {
    const { longest, truncation } = this.recipe;
    const whole = this.encoded(this.recipe.lower_case ? text.toLowerCase() : text, this.recipe.special_tokens);
    const cut = whole.ids.length > longest;
    if (cut && truncation === "none") {
      throw new InputError(`got ${whole.ids.length} tokens, expected at most ${longest}; shorten the text`);
    }
    const kept = cut ? this.shortened(whole) : whole;
    const size = this.padded(kept.ids.length);
    const before = this.recipe.padding_side === "left" ? size - kept.ids.length : 0;
    const values: Readonly<Record<string, readonly [number, readonly number[]]>> = {
      ids: [this.recipe.padding_id, kept.ids],
      mask: [0, kept.ids.map(() => 1)],
      types: [this.recipe.padding_type, kept.types],
    };
    const inputs = [...this.specs].map(([role, spec]) => {
      const [padding, real] = values[role]!;
      const row = new Array<number>(size).fill(padding);
      for (const [place, value] of real.entries()) row[before + place] = value;
      return [spec.name, filled(spec.dtype as Dtype, [1, size], row)] as const;
    });
    const tokens = new Array<string | null>(size).fill(null);
    for (const [place, id] of kept.ids.entries()) tokens[before + place] = this.tokenizer.id_to_token(id) ?? `${id}`;
    return { inputs: Object.fromEntries(inputs), tokens, cut };
  }

  private encoded(text: string, special: boolean): Encoded {
    try {
      const options = { add_special_tokens: special, return_token_type_ids: true } as const;
      const { ids, token_type_ids } = this.tokenizer.encode(text, options);
      if (ids.some((id) => (id as number | undefined) === undefined)) throw new Error("it has no number for a part");
      return { ids, types: token_type_ids ?? ids.map(() => 0) };
    } catch (error) {
      throw new InputError(`the tokenizer refuses the text (${oneLine(error)}); mend it`);
    }
  }

  /** Cut to the longest; the special tokens at both ends stay. */
  private shortened({ ids, types }: Encoded): Encoded {
    const { longest, truncation_side } = this.recipe;
    const none = this.recipe.special_tokens ? this.encoded("", true).ids : [];
    let before = 0;
    while (before < none.length && none[before] === ids[before]) before++;
    const after = none.length - before;
    const kept = Math.max(longest - none.length, 0);
    const end = ids.length - after;
    const [from, to] = truncation_side === "left" ? [end - kept, end] : [before, before + kept];
    const of = (all: readonly number[]): number[] => [
      ...all.slice(0, before),
      ...all.slice(from, to),
      ...all.slice(end),
    ];
    return { ids: of(ids), types: of(types) };
  }

  private padded(longest: number): number {
    const size = this.specs.get("ids")!.shape[1]!;
    return typeof size === "number" ? size : Math.max(longest, this.bundle.axes[size]?.shortest ?? 0);
  }
}
