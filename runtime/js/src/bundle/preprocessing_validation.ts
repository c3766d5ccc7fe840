/** What must hold of the ways in which pictures, texts and recordings become a bundle's inputs. */

import { float, listed, quoted } from "../message_text.js";
import { type Dtype, dtypeRecord } from "../tensor.js";
import { expect, expectFinite, expectOneOf, expectText, short } from "./expectations.js";
import {
  type AudioPreprocessing,
  type Bundle,
  type ImagePreprocessing,
  type TensorSpec,
  type TextPreprocessing,
  TOKENIZER_ROLE,
} from "./schema.js";

const TEXT_ROLES = ["ids", "mask", "types"];
const SIDES = ["left", "right"];
const TRUNCATIONS = ["longest_first", "only_first", "none"];
const RESAMPLES = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"];
const CHANNEL_ORDERS = ["rgb", "bgr"];
const AUDIO_KINDS = ["log_mel", "waveform"];
/** How many numbers the size has, by the way of resizing. */
const SIZES: Readonly<Record<string, readonly number[]>> = { stretch: [0, 2], shortest_edge: [1], none: [0] };
const MAX_EDGE = 65_536;
const MAX_TOKENS = 2 ** 24;
const MAX_SAMPLES = 2 ** 26;
const MAX_RATE = 1_000_000;

type Specs = ReadonlyMap<string, TensorSpec>;

function kindOf(spec: TensorSpec): string {
  return dtypeRecord(spec.dtype as Dtype).kind;
}

function expectBetween(where: string, value: number, least: number, most: number): void {
  expect(
    least <= value && value <= most,
    () => `${where} ${value}`,
    () => `${least} to ${most}`,
  );
}

/** How pictures become an input. */
export function checkImage(where: string, recipe: ImagePreprocessing): void {
  const { channels, background, scale, std, resize, size } = recipe;
  expect(
    channels === 1 || channels === 3,
    () => `${where}: ${channels} channels`,
    () => "1 or 3",
  );
  expectBetween(`${where}: height`, recipe.height, 1, MAX_EDGE);
  expectBetween(`${where}: width`, recipe.width, 1, MAX_EDGE);
  for (const [key, values] of [
    ["mean", recipe.mean],
    ["std", std],
  ] as const) {
    const fine = values.length === 1 || values.length === channels;
    expect(
      fine,
      () => `${where}: ${values.length} ${key} values`,
      () => "1 or one per channel",
    );
    expectFinite(`${where} ${key}`, values);
  }
  const many = background.length === 1 || background.length === channels;
  expect(
    many && background.every((value) => 0 <= value && value <= 255),
    () => `${where}: background ${listed(background.slice(0, 4))}`,
    () => "1 value from 0 to 255, or one per channel",
  );
  expectFinite(`${where} scale`, [scale]);
  expect(
    scale > 0,
    () => `${where}: scale ${float(scale)}`,
    () => "above 0",
  );
  expect(
    Math.min(...std) > 0,
    () => `${where}: std ${float(Math.min(...std))}`,
    () => "above 0",
  );
  expectOneOf(`${where}: resize`, resize, Object.keys(SIZES));
  expectOneOf(`${where}: resample`, recipe.resample, RESAMPLES);
  expectOneOf(`${where}: order`, recipe.order, CHANNEL_ORDERS);
  const counts = SIZES[resize]!;
  expect(
    counts.includes(size.length) && size.every((edge) => 1 <= edge && edge <= MAX_EDGE),
    () => `${where}: size ${listed(size.slice(0, 4))}`,
    () => `${counts.join(" or ")} of 1 to ${MAX_EDGE} with resize ${quoted(resize)}`,
  );
}

/** How texts and recordings become the bundle's inputs; every input is filled by one of its kinds at most. */
export function checkSources(bundle: Bundle): void {
  const specs: Specs = new Map(bundle.inputs.map((spec) => [spec.name, spec]));
  const filled = bundle.inputs.filter((spec) => spec.preprocessing !== null).map((spec) => spec.name);
  for (const spec of bundle.outputs) {
    const got = (): string => `outputs ${short(spec.name)}: preprocessing`;
    expect(spec.preprocessing === null, got, () => "none, as it is no input");
  }
  if (bundle.text !== null) filled.push(...checkText(bundle, bundle.text, specs));
  if (bundle.audio !== null) filled.push(...checkAudio(bundle, bundle.audio, specs));
  for (const name of filled) {
    const times = filled.filter((one) => one === name).length;
    const got = (): string => `inputs ${short(name)}: filled ${times} times`;
    expect(times === 1, got, () => "one of preprocessing, text and audio");
  }
}

function checkText(bundle: Bundle, text: TextPreprocessing, specs: Specs): string[] {
  const keys = Object.keys(text.inputs);
  for (const role of keys) expectOneOf("text inputs: key", role, TEXT_ROLES);
  expect(
    keys.includes("ids"),
    () => `text inputs: ${listed(keys.sort())}`,
    () => "'ids' among them",
  );
  const roles = TEXT_ROLES.filter((role) => keys.includes(role));
  const filled = roles.map((role) => inputOf("text inputs", text.inputs[role]!, specs, 2));
  const ids = filled[0]!;
  for (const spec of filled) {
    const got = (): string => `text inputs ${short(spec.name)}: shape ${listed(spec.shape)}`;
    expect(listed(spec.shape) === listed(ids.shape), got, () => `${listed(ids.shape)} as of ${short(ids.name)}`);
  }
  for (const [index, role] of roles.entries()) {
    const kinds = role === "ids" ? "iu" : role === "mask" ? "iufb" : "iuf";
    const wanted = role === "ids" ? "whole numbers" : "a dtype of numbers";
    const spec = filled[index]!;
    expect(
      kinds.includes(kindOf(spec)),
      () => `text inputs ${role}: ${spec.dtype}`,
      () => wanted,
    );
  }
  expectPadding("text", bundle, ids, MAX_TOKENS);
  expectBetween("text: longest", text.longest, 1, Math.min(MAX_TOKENS, longestOf(bundle, ids.shape[1]!) ?? MAX_TOKENS));
  for (const [key, number] of [
    ["padding_id", text.padding_id],
    ["padding_type", text.padding_type],
  ] as const) {
    const spec = (key === "padding_type" ? specs.get(text.inputs.types ?? "") : undefined) ?? ids;
    const [least, most] = [spec.minimum ?? 0, spec.maximum ?? 2 ** 31 - 1];
    const fine = least <= number && number <= most;
    expect(
      fine,
      () => `text: ${key} ${number}`,
      () => `${least} to ${most}, as of ${short(spec.name)}`,
    );
  }
  if (keys.includes("mask")) expectZeroAndOne("text inputs mask", specs.get(text.inputs.mask!)!);
  if (text.padding_token !== null) expectText("text padding_token", text.padding_token);
  expectOneOf("text: padding_side", text.padding_side, SIDES);
  expectOneOf("text: truncation_side", text.truncation_side, SIDES);
  expectOneOf("text: truncation", text.truncation, TRUNCATIONS);
  const tokenizer = bundle.files.some((entry) => entry.role === TOKENIZER_ROLE);
  expect(
    tokenizer,
    () => "text without a tokenizer",
    () => `a file with the role ${quoted(TOKENIZER_ROLE)}`,
  );
  return filled.map((spec) => spec.name);
}

function checkAudio(bundle: Bundle, audio: AudioPreprocessing, specs: Specs): string[] {
  expectOneOf("audio: kind", audio.kind, AUDIO_KINDS);
  expectBetween("audio: sample_rate", audio.sample_rate, 1, MAX_RATE);
  expectFinite("audio padding_value", [audio.padding_value]);
  const spec = inputOf("audio input", audio.input, specs, audio.kind === "log_mel" ? 3 : 2);
  const where = `audio input ${short(spec.name)}`;
  expect(
    kindOf(spec) === "f",
    () => `${where}: ${spec.dtype}`,
    () => "fractions",
  );
  if (audio.kind === "log_mel") {
    checkLogMel(bundle, audio, spec, where);
    return [spec.name];
  }
  expectPadding("audio", bundle, spec, MAX_SAMPLES);
  if (audio.mask === null) return [spec.name];
  const mask = inputOf("audio mask", audio.mask, specs, 2);
  const got = (): string => `audio mask: shape ${listed(mask.shape)}`;
  expect(listed(mask.shape) === listed(spec.shape), got, () => `${listed(spec.shape)} as of ${short(spec.name)}`);
  expectZeroAndOne("audio mask", mask);
  return [spec.name, mask.name];
}

function checkLogMel(bundle: Bundle, audio: AudioPreprocessing, spec: TensorSpec, where: string): void {
  expectBetween("audio: samples", audio.samples, 1, MAX_SAMPLES);
  expectBetween("audio: window", audio.window, 2, 2 ** 16);
  expectBetween("audio: hop", audio.hop, 1, Math.min(audio.samples, 2 ** 16));
  expectBetween("audio: mels", audio.mels, 1, 1_024);
  // Its beginning and end are mirrored by half a window.
  const half = Math.floor(audio.window / 2);
  expect(
    audio.samples > half,
    () => `audio: samples ${audio.samples}`,
    () => "more than half of the window",
  );
  expect(
    audio.mask === null,
    () => "audio: a mask of log_mel",
    () => "none: the whole is padded with silence",
  );
  const wanted = [audio.mels, Math.floor(audio.samples / audio.hop)];
  for (const [index, number] of wanted.entries()) {
    const size = spec.shape[index + 1]!;
    const longest = longestOf(bundle, size);
    const fine = size === number || (typeof size === "string" && (longest === null || number <= longest));
    const got = (): string => `${where}: shape ${listed(spec.shape)}`;
    expect(fine, got, () => `the last axes to take ${listed(wanted)}`);
  }
}

/** The most that an axis of an input may be long; null for no limit. */
function longestOf(bundle: Bundle, size: number | string): number | null {
  return typeof size === "number" ? size : (bundle.axes[size]?.longest ?? null);
}

function inputOf(where: string, name: string, specs: Specs, rank: number): TensorSpec {
  expectText(where, name);
  const spec = specs.get(name);
  const known = (): string => `one of ${[...specs.keys()].slice(0, 10).map(short).join(", ")}`;
  expect(spec !== undefined, () => `${where}: ${short(name)}`, known);
  expect(
    spec.shape.length === rank,
    () => `${where} ${short(name)}: ${spec.shape.length} axes`,
    () => String(rank),
  );
  return spec;
}

function expectZeroAndOne(where: string, spec: TensorSpec): void {
  const fine = (spec.minimum ?? 0) <= 0 && (spec.maximum ?? 1) >= 1;
  const got = (): string => `${where} ${short(spec.name)}: ${spec.minimum ?? "None"} to ${spec.maximum ?? "None"}`;
  expect(fine, got, () => "limits with 0 and 1 between them");
}

/** The shortest sample is padded to so much, whatever it is: that must fit into memory. */
function expectPadding(where: string, bundle: Bundle, spec: TensorSpec, most: number): void {
  const size = spec.shape[1]!;
  const least = typeof size === "number" ? size : (bundle.axes[size]?.shortest ?? 0);
  const got = (): string => `${where} input ${short(spec.name)}: at least ${least} for each sample`;
  expect(least <= most, got, () => `at most ${most}`);
}
