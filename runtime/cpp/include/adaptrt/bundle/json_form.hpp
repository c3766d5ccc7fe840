// From the bytes of `bundle.json` to a `Bundle` whose values are not checked yet.
#pragma once

#include <string_view>

#include "adaptrt/bundle/format_1.hpp"
#include "adaptrt/bundle/json_reader.hpp"

namespace adaptrt::bundle {

namespace json_form {

using Node = const JsonNode&;

inline const auto text = [](Node node) { return node.text(); };
inline const auto whole = [](Node node) { return node.whole(); };
inline const auto number = [](Node node) { return node.number(); };
inline const auto flag = [](Node node) { return node.flag(); };
inline const auto maybe_text = [](Node node) { return node.optional_text(); };
inline const auto maybe_number = [](Node node) { return node.optional_number(); };
inline const auto named_text = [](const std::string&, Node node) { return node.text(); };
inline const auto texts = [](Node node) { return node.list<std::string>(text); };
inline const auto wholes = [](Node node) { return node.list<int64_t>(whole); };
inline const auto numbers = [](Node node) { return node.list<double>(number); };
inline const auto sizes = [](Node node) { return node.list<Size>([](Node size) { return size.size(); }); };
inline const auto knob_values = [](Node node) {
  return node.entries<KnobValue>(
      [](const std::string& name, Node value) { return value.knob_value(name == thresholds_knob); });
};

inline ImagePreprocessing image(Node node) {
  ImagePreprocessing recipe;
  recipe.channels = node.at("channels").whole();
  recipe.height = node.at("height").whole();
  recipe.width = node.at("width").whole();
  node.maybe("scale", recipe.scale, number);
  node.maybe("mean", recipe.mean, numbers);
  node.maybe("std", recipe.std, numbers);
  node.maybe("background", recipe.background, wholes);
  node.maybe("resize", recipe.resize, text);
  node.maybe("size", recipe.size, wholes);
  node.maybe("resample", recipe.resample, text);
  node.maybe("order", recipe.order, text);
  return recipe;
}

inline TextPreprocessing text_recipe(Node node) {
  TextPreprocessing recipe;
  recipe.inputs = node.at("inputs").entries<std::string>(named_text);
  recipe.longest = node.at("longest").whole();
  node.maybe("padding_id", recipe.padding_id, whole);
  node.maybe("padding_token", recipe.padding_token, maybe_text);
  node.maybe("padding_type", recipe.padding_type, whole);
  node.maybe("padding_side", recipe.padding_side, text);
  node.maybe("truncation", recipe.truncation, text);
  node.maybe("truncation_side", recipe.truncation_side, text);
  node.maybe("special_tokens", recipe.special_tokens, flag);
  node.maybe("lower_case", recipe.lower_case, flag);
  return recipe;
}

inline AudioPreprocessing audio(Node node) {
  AudioPreprocessing recipe;
  recipe.input = node.at("input").text();
  recipe.kind = node.at("kind").text();
  node.maybe("sample_rate", recipe.sample_rate, whole);
  node.maybe("mask", recipe.mask, maybe_text);
  node.maybe("padding_value", recipe.padding_value, number);
  node.maybe("normalize", recipe.normalize, flag);
  node.maybe("mels", recipe.mels, whole);
  node.maybe("window", recipe.window, whole);
  node.maybe("hop", recipe.hop, whole);
  node.maybe("samples", recipe.samples, whole);
  return recipe;
}

inline TensorSpec tensor(Node node) {
  TensorSpec spec;
  spec.name = node.at("name").text();
  spec.dtype = node.at("dtype").text();
  spec.shape = sizes(node.at("shape"));
  node.maybe("preprocessing", spec.preprocessing,
             [](Node one) { return one.optional_object<ImagePreprocessing>(image); });
  node.maybe("minimum", spec.minimum, [](Node one) { return one.optional_limit(); });
  node.maybe("maximum", spec.maximum, [](Node one) { return one.optional_limit(); });
  return spec;
}

inline DataFile data_file(Node node) { return {node.at("file").text(), node.at("sha256").text()}; }
inline const auto data_files = [](Node node) { return node.list<DataFile>(data_file); };

inline PreprocessingFile preprocessing_file(Node node) {
  return {node.at("file").text(), node.at("sha256").text(), node.at("role").text()};
}

inline Carry carry(Node node) {
  return {node.at("name").text(), node.at("source").text(), node.at("dtype").text(), sizes(node.at("shape"))};
}

inline TokenSet token_set(const std::string&, Node node) {
  TokenSet set;
  node.maybe("size", set.size, [](Node one) {
    const bool fine = one.value().text() || one.value().is_whole();
    return one.optional<Size>("int | str | null", fine, [](Node size) { return size.size(); });
  });
  node.maybe("valid", set.valid, maybe_text);
  return set;
}

inline DecisionSpec decision(Node node) {
  DecisionSpec spec;
  spec.kind = node.at("kind").text();
  spec.number = node.at("number").whole();
  spec.outputs = node.at("outputs").entries<std::string>(named_text);
  node.maybe("of", spec.of, text);
  node.maybe("flat", spec.flat, flag);
  node.maybe("nested", spec.nested, flag);
  return spec;
}

inline Stage stage(Node node) {
  Stage one;
  one.file = node.at("file").text();
  one.sha256 = node.at("sha256").text();
  node.maybe("exit", one.exit, maybe_text);
  node.maybe("external_data", one.external_data, data_files);
  node.maybe("carry", one.carry, [](Node list) { return list.list<Carry>(carry); });
  node.maybe("decisions", one.decisions, [](Node list) { return list.list<DecisionSpec>(decision); });
  return one;
}

inline Knob knob(Node node) {
  Knob one;
  one.name = node.at("name").text();
  one.dtype = node.at("dtype").text();
  one.shape = wholes(node.at("shape"));
  const auto limit = [&](const char* key, double null_is) {
    const JsonNode value = node.at(key);
    return one.name == thresholds_knob && value.value().is_null() ? null_is : value.number();
  };
  one.minimum = limit("minimum", -infinity);
  one.maximum = limit("maximum", infinity);
  one.default_value = limit("default", infinity);
  return one;
}

inline Dense dense(Node node) {
  Dense one;
  one.macs = node.at("macs").whole();
  one.parameters = node.at("parameters").whole();
  node.maybe("quality", one.quality, maybe_number);
  node.maybe("file", one.file, maybe_text);
  node.maybe("sha256", one.sha256, maybe_text);
  node.maybe("external_data", one.external_data, data_files);
  node.maybe("unsplit", one.unsplit, flag);
  node.maybe("answers_full", one.answers_full, flag);
  return one;
}

inline CurvePoint curve_point(Node node) {
  CurvePoint point;
  point.knobs = knob_values(node.at("knobs"));
  point.macs_fraction = node.at("macs_fraction").number();
  point.quality = node.at("quality").optional_number();
  point.frontier = node.at("frontier").flag();
  node.maybe("calibration_quality", point.calibration_quality, maybe_number);
  node.maybe("calibration_macs_fraction", point.calibration_macs_fraction, maybe_number);
  node.maybe("setting", point.setting, text);
  node.maybe("hard", point.hard, flag);
  node.maybe("calibration_error", point.calibration_error, maybe_number);
  return point;
}

inline BudgetPoint budget_point(Node node) {
  BudgetPoint point;
  point.work = node.at("work").number();
  point.quality = node.at("quality").optional_number();
  point.knobs = knob_values(node.at("knobs"));
  return point;
}

inline BudgetRow budget_row(Node node) {
  BudgetRow row;
  row.fraction = node.at("fraction").number();
  static_cast<BudgetPoint&>(row) = budget_point(node);
  node.maybe("to", row.to, [](Node one) { return one.optional_object<BudgetPoint>(budget_point); });
  return row;
}

inline BudgetTable budget_table(Node node) {
  const auto rows = [](Node list) { return list.list<BudgetRow>(budget_row); };
  return {rows(node.at("soft")), rows(node.at("hard")), budget_point(node.at("full"))};
}

inline Axis axis(const std::string&, Node node) {
  Axis one;
  node.maybe("shortest", one.shortest, whole);
  node.maybe("longest", one.longest, [](Node size) { return size.optional_whole(); });
  return one;
}

inline Bundle bundle(Node node) {
  Bundle one;
  node.at("format_version").whole();
  one.name = node.at("name").text();
  one.producer = node.at("producer").text();
  one.inputs = node.at("inputs").list<TensorSpec>(tensor);
  one.outputs = node.at("outputs").list<TensorSpec>(tensor);
  one.stages = node.at("stages").list<Stage>(stage);
  one.knobs = node.at("knobs").list<Knob>(knob);
  one.dense = dense(node.at("dense"));
  node.maybe("curve", one.curve, [](Node list) { return list.list<CurvePoint>(curve_point); });
  node.maybe("quality_metric", one.quality_metric, maybe_text);
  std::map<std::string, bool> data;  // its content is for people
  node.maybe("data", data, [](Node map) { return map.entries<bool>([](const std::string&, Node) { return true; }); });
  node.maybe("ops", one.ops, [](Node map) {
    return map.entries<int64_t>([](const std::string&, Node count) { return count.whole(); });
  });
  node.maybe("exit_criterion", one.exit_criterion, maybe_text);
  node.maybe("tokens", one.tokens, [](Node map) { return map.entries<TokenSet>(token_set); });
  node.maybe("axes", one.axes, [](Node map) { return map.entries<Axis>(axis); });
  node.maybe("task", one.task, maybe_text);
  node.maybe("files", one.files, [](Node list) { return list.list<PreprocessingFile>(preprocessing_file); });
  node.maybe("budget_table", one.budget_table,
             [](Node table) { return table.optional_object<BudgetTable>(budget_table); });
  node.maybe("text", one.text, [](Node recipe) { return recipe.optional_object<TextPreprocessing>(text_recipe); });
  node.maybe("audio", one.audio, [](Node recipe) { return recipe.optional_object<AudioPreprocessing>(audio); });
  node.maybe("class_names", one.class_names, texts);
  return one;
}

}  // namespace json_form

// What the bytes of `bundle.json` say. Throws `Invalid`: they are no JSON, of another format, or of other types.
inline Bundle decode_bundle(std::string_view bytes) {
  Json content;
  try {
    content = Json::parse(bytes);
  } catch (const NotJson& error) {
    throw Invalid("not readable as JSON (" + text::one_line(error.what()) + "); copy the bundle or " + again);
  }
  const JsonNode root(content);
  std::optional<int64_t> version;
  root.maybe("format_version", version, [](const JsonNode& node) { return node.optional_whole(); });
  if (version == former_version) {
    upgrade(content);
  } else if (version != format_version) {
    throw Invalid("format_version is " + (version ? std::to_string(*version) : "missing") + ", expected " +
                  std::to_string(format_version) +
                  "; export the model again with this adaptrt, or install the adaptrt that wrote it");
  }
  return json_form::bundle(root);
}

}  // namespace adaptrt::bundle
