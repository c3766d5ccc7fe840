// What must hold of the ways in which pictures, texts and recordings become inputs. This runtime takes arrays only.
#pragma once

#include <algorithm>
#include <string>

#include "adaptrt/bundle/tensor_validation.hpp"

namespace adaptrt::bundle {

inline constexpr int64_t max_edge = 65'536;
inline constexpr int64_t max_tokens = int64_t{1} << 24;
inline constexpr int64_t max_samples = int64_t{1} << 26;
inline constexpr int64_t max_rate = 1'000'000;

inline void expect_between(const std::string& got, int64_t value, int64_t least, int64_t most, const char* more = "") {
  expect(
      least <= value && value <= most, [&] { return got + " " + std::to_string(value); },
      [&] { return std::to_string(least) + " to " + std::to_string(most) + more; });
}

inline void expect_one_of(const std::string& where, const std::string& value, const std::vector<std::string>& choices) {
  const bool fine = std::find(choices.begin(), choices.end(), value) != choices.end();
  expect(fine, [&] { return where + " " + text::brief(value); }, [&] { return "one of " + text::joined(choices); });
}

inline void check_image(const std::string& where, const ImagePreprocessing& recipe) {
  const auto count = [&](size_t size) { return size == 1 || size == static_cast<size_t>(recipe.channels); };
  expect(
      recipe.channels == 1 || recipe.channels == 3,
      [&] { return where + ": " + std::to_string(recipe.channels) + " channels"; }, "1 or 3");
  expect_between(where + ": height", recipe.height, 1, max_edge);
  expect_between(where + ": width", recipe.width, 1, max_edge);
  const std::pair<const char*, const std::vector<double>*> lists[] = {{"mean", &recipe.mean}, {"std", &recipe.std}};
  for (const auto& [key, values] : lists) {
    expect(
        count(values->size()),
        [&, k = key, v = values] { return where + ": " + std::to_string(v->size()) + " " + k + " values"; },
        "1 or one per channel");
    for (const double value : *values) expect_finite(where + " " + key, value);
  }
  const auto& ground = recipe.background;
  const bool pixels =
      std::all_of(ground.begin(), ground.end(), [](int64_t value) { return 0 <= value && value <= 255; });
  expect(
      count(ground.size()) && pixels,
      [&] {
        return where + ": background " +
               shown(std::vector<int64_t>(
                   ground.begin(), ground.begin() + std::min<ptrdiff_t>(4, static_cast<ptrdiff_t>(ground.size()))));
      },
      "1 value from 0 to 255, or one per channel");
  expect_finite(where + " scale", recipe.scale);
  expect(recipe.scale > 0, [&] { return where + ": scale " + text::number(recipe.scale); }, "above 0");
  const double least = *std::min_element(recipe.std.begin(), recipe.std.end());
  expect(least > 0, [&] { return where + ": std " + text::number(least); }, "above 0");
  expect_one_of(where + ": resize", recipe.resize, {"stretch", "shortest_edge", "none"});
  expect_one_of(where + ": resample", recipe.resample, {"nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"});
  expect_one_of(where + ": order", recipe.order, {"rgb", "bgr"});
  const auto& size = recipe.size;
  const bool several = recipe.resize == "stretch" ? size.empty() || size.size() == 2
                       : recipe.resize == "none"  ? size.empty()
                                                  : size.size() == 1;
  const bool edges = std::all_of(size.begin(), size.end(), [](int64_t edge) { return 1 <= edge && edge <= max_edge; });
  expect(
      several && edges,
      [&] {
        return where + ": size " +
               shown(std::vector<int64_t>(size.begin(),
                                          size.begin() + std::min<ptrdiff_t>(4, static_cast<ptrdiff_t>(size.size()))));
      },
      [&] {
        const char* wanted = recipe.resize == "stretch" ? "0 or 2" : recipe.resize == "none" ? "0" : "1";
        return std::string(wanted) + " of 1 to " + std::to_string(max_edge) + " with resize " +
               text::quoted(recipe.resize);
      });
}

// An input or output.
inline void check_tensor(const std::string& where, const TensorSpec& spec) {
  expect_text(where, spec.name);
  check_array(where, spec.dtype, spec.shape);
  if (spec.preprocessing) check_image(where + " preprocessing", *spec.preprocessing);
}

namespace sources {

inline const TensorSpec& input(const std::string& where, const std::string& name, const Bundle& bundle, size_t rank) {
  expect_text(where, name);
  const auto found = std::find_if(bundle.inputs.begin(), bundle.inputs.end(),
                                  [&](const TensorSpec& spec) { return spec.name == name; });
  expect(
      found != bundle.inputs.end(), [&] { return where + ": " + text::brief(name); },
      [&] {
        std::vector<std::string> names;
        for (const TensorSpec& spec : bundle.inputs) names.push_back(text::brief(spec.name));
        return "one of " + text::joined(names, "", 10);
      });
  expect(
      found->shape.size() == rank,
      [&] { return where + " " + text::brief(name) + ": " + std::to_string(found->shape.size()) + " axes"; },
      std::to_string(rank));
  return *found;
}

inline void expect_zero_and_one(const std::string& where, const TensorSpec& spec) {
  const bool fine =
      !(Limit{} < spec.minimum.value_or(Limit{})) && !(spec.maximum.value_or(Limit{false, 1}) < Limit{false, 1});
  expect(
      fine,
      [&] { return where + " " + text::brief(spec.name) + ": " + shown(spec.minimum) + " to " + shown(spec.maximum); },
      "limits with 0 and 1 between them");
}

// The shortest sample is padded to so much, whatever it is: that must fit into memory.
inline void expect_padding(const std::string& where, const Bundle& bundle, const TensorSpec& spec, int64_t most) {
  const auto* axis = std::get_if<std::string>(&spec.shape[1]);
  const int64_t least = axis ? bundle.axes.at(*axis).shortest : std::get<int64_t>(spec.shape[1]);
  expect(
      least <= most,
      [&] {
        return where + " input " + text::brief(spec.name) + ": at least " + std::to_string(least) + " for each sample";
      },
      [&] { return "at most " + std::to_string(most); });
}

inline std::optional<int64_t> longest_of(const Bundle& bundle, const Size& size) {
  const auto* axis = std::get_if<std::string>(&size);
  return axis ? bundle.axes.at(*axis).longest : std::optional<int64_t>(std::get<int64_t>(size));
}

inline std::vector<std::string> check_text(const Bundle& bundle, const TextPreprocessing& recipe) {
  const std::vector<std::string> roles = {"ids", "mask", "types"};
  for (const auto& [role, name] : recipe.inputs) expect_one_of("text inputs: key", role, roles);
  expect(
      recipe.inputs.count("ids") == 1,
      [&] {
        std::vector<std::string> given;
        for (const auto& [role, name] : recipe.inputs) given.push_back(role);
        return "text inputs: [" + quoted_list(given) + "]";
      },
      "'ids' among them");
  std::vector<std::string> filled;
  std::map<std::string, const TensorSpec*> specs;
  for (const std::string& role : roles) {
    if (recipe.inputs.count(role) == 0) continue;
    specs[role] = &input("text inputs", recipe.inputs.at(role), bundle, 2);
    filled.push_back(recipe.inputs.at(role));
  }
  const TensorSpec& ids = *specs.at("ids");
  for (const std::string& role : roles) {
    if (specs.count(role) == 0) continue;
    const TensorSpec& spec = *specs.at(role);
    expect(
        spec.shape == ids.shape,
        [&] { return "text inputs " + text::brief(spec.name) + ": shape " + shown(spec.shape); },
        [&] { return shown(ids.shape) + " as of " + text::brief(ids.name); });
  }
  for (const std::string& role : roles) {
    if (specs.count(role) == 0) continue;
    const char kind = dtype_named(specs.at(role)->dtype)->kind;
    const bool fine = kind == 'i' || kind == 'u' || (role != "ids" && kind == 'f') || (role == "mask" && kind == 'b');
    expect(
        fine, [&] { return "text inputs " + role + ": " + specs.at(role)->dtype; },
        role == "ids" ? "whole numbers" : "a dtype of numbers");
  }
  expect_padding("text", bundle, ids, max_tokens);
  expect_between("text: longest", recipe.longest, 1,
                 std::min(max_tokens, longest_of(bundle, ids.shape[1]).value_or(max_tokens)));
  const std::pair<const char*, int64_t> paddings[] = {{"padding_id", recipe.padding_id},
                                                      {"padding_type", recipe.padding_type}};
  for (const auto& [key, value] : paddings) {
    const TensorSpec& spec = std::string(key) == "padding_type" && specs.count("types") ? *specs.at("types") : ids;
    const Limit least = spec.minimum.value_or(Limit{}), most = spec.maximum.value_or(Limit{false, 2147483647});
    const Limit got{value < 0, value < 0 ? ~static_cast<uint64_t>(value) + 1 : static_cast<uint64_t>(value)};
    expect(
        !(got < least) && !(most < got), [&, k = key] { return std::string("text: ") + k + " " + got.text(); },
        [&] { return least.text() + " to " + most.text() + ", as of " + text::brief(spec.name); });
  }
  if (specs.count("mask")) expect_zero_and_one("text inputs mask", *specs.at("mask"));
  if (recipe.padding_token) expect_text("text padding_token", *recipe.padding_token);
  expect_one_of("text: padding_side", recipe.padding_side, {"left", "right"});
  expect_one_of("text: truncation_side", recipe.truncation_side, {"left", "right"});
  expect_one_of("text: truncation", recipe.truncation, {"longest_first", "only_first", "none"});
  const bool listed = std::any_of(bundle.files.begin(), bundle.files.end(),
                                  [](const PreprocessingFile& entry) { return entry.role == "tokenizer"; });
  expect(listed, "text without a tokenizer", "a file with the role 'tokenizer'");
  return filled;
}

inline std::vector<std::string> check_audio(const Bundle& bundle, const AudioPreprocessing& audio) {
  expect_one_of("audio: kind", audio.kind, {"log_mel", "waveform"});
  expect_between("audio: sample_rate", audio.sample_rate, 1, max_rate);
  expect_finite("audio padding_value", audio.padding_value);
  const bool mels = audio.kind == "log_mel";
  const TensorSpec& spec = input("audio input", audio.input, bundle, mels ? 3 : 2);
  expect(
      dtype_named(spec.dtype)->kind == 'f', [&] { return "audio input " + text::brief(spec.name) + ": " + spec.dtype; },
      "fractions");
  if (mels) {
    expect_between("audio: samples", audio.samples, 1, max_samples);
    expect_between("audio: window", audio.window, 2, 65'536);
    expect_between("audio: hop", audio.hop, 1, std::min<int64_t>(audio.samples, 65'536));
    expect_between("audio: mels", audio.mels, 1, 1'024);
    expect(
        audio.samples > audio.window / 2, [&] { return "audio: samples " + std::to_string(audio.samples); },
        "more than half of the window");
    expect(!audio.mask, "audio: a mask of log_mel", "none: the whole is padded with silence");
    const int64_t wanted[] = {audio.mels, audio.samples / audio.hop};
    for (size_t i = 0; i < 2; ++i) {
      const Size& size = spec.shape[i + 1];
      const bool named = std::holds_alternative<std::string>(size);
      const std::optional<int64_t> longest = longest_of(bundle, size);
      const bool fine = named ? !longest || wanted[i] <= *longest : *longest == wanted[i];
      expect(
          fine, [&] { return "audio input " + text::brief(spec.name) + ": shape " + shown(spec.shape); },
          [&] {
            return "the last axes to take [" + std::to_string(wanted[0]) + ", " + std::to_string(wanted[1]) + "]";
          });
    }
    return {spec.name};
  }
  expect_padding("audio", bundle, spec, max_samples);
  if (!audio.mask) return {spec.name};
  const TensorSpec& mask = input("audio mask", *audio.mask, bundle, 2);
  expect(
      mask.shape == spec.shape, [&] { return "audio mask: shape " + shown(mask.shape); },
      [&] { return shown(spec.shape) + " as of " + text::brief(spec.name); });
  expect_zero_and_one("audio mask", mask);
  return {spec.name, mask.name};
}

}  // namespace sources

// How texts and recordings become the bundle's inputs; every input is filled by one of its kinds at most.
inline void check_sources(const Bundle& bundle) {
  std::vector<std::string> filled;
  for (const TensorSpec& spec : bundle.inputs) {
    if (spec.preprocessing) filled.push_back(spec.name);
  }
  for (const TensorSpec& spec : bundle.outputs) {
    expect(
        !spec.preprocessing, [&] { return "outputs " + text::brief(spec.name) + ": preprocessing"; },
        "none, as it is no input");
  }
  const auto add = [&](const std::vector<std::string>& names) {
    filled.insert(filled.end(), names.begin(), names.end());
  };
  if (bundle.text) add(sources::check_text(bundle, *bundle.text));
  if (bundle.audio) add(sources::check_audio(bundle, *bundle.audio));
  for (const std::string& name : filled) {
    const auto times = std::count(filled.begin(), filled.end(), name);
    expect(
        times == 1, [&] { return "inputs " + text::brief(name) + ": filled " + std::to_string(times) + " times"; },
        "one of preprocessing, text and audio");
  }
}

}  // namespace adaptrt::bundle
