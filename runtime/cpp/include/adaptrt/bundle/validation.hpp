// What the values in a bundle must satisfy beyond their types. Reads no file.
#pragma once

#include <cmath>
#include <string>

#include "adaptrt/bundle/curve_validation.hpp"
#include "adaptrt/bundle/preprocessing_validation.hpp"
#include "adaptrt/bundle/stage_validation.hpp"

namespace adaptrt::bundle {

inline constexpr size_t max_entries = 1'000;
inline constexpr size_t max_preprocessing_files = 100;
inline constexpr size_t max_classes = 100'000;

// Refuse a path that is not plainly below the bundle's folder on every operating system.
inline void check_relative_path(const std::string& where, const std::string& path) {
  bool plain = !path.empty() && text::code_points(path).size() <= max_text && text::is_printable(path) &&
               path.find_first_of("\\:*?\"<>|") == std::string::npos;
  for (size_t begin = 0; plain && begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    plain = !part.empty() && part != "." && part != "..";
    begin = end + 1;
  }
  expect(plain, [&] { return where + ": path " + text::brief(path); }, "a relative path inside the bundle's folder");
}

namespace values {

inline void expect_count(const char* key, size_t count, size_t least, size_t most) {
  expect(
      least <= count && count <= most, [&] { return std::string(key) + ": " + std::to_string(count) + " entries"; },
      [&] { return std::to_string(least) + " to " + std::to_string(most); });
}

inline void check_hash(const std::string& where, const std::string& sha256) {
  const bool fine = sha256.size() == 64 && sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
  expect(fine, [&] { return where + ": sha256 " + text::brief(sha256); }, "64 lowercase hexadecimal digits");
}

inline void check_file(const std::string& where, const std::string& file, const std::string& sha256,
                       const std::vector<DataFile>& data) {
  check_relative_path(where, file);
  check_hash(where, sha256);
  expect(
      data.size() <= max_entries, [&] { return where + ": " + std::to_string(data.size()) + " data files"; },
      [] { return "at most " + std::to_string(max_entries); });
  std::vector<std::string> names;
  for (const DataFile& one : data) {
    check_relative_path(where + " external_data", one.file);
    check_hash(where + " external_data", one.sha256);
    names.push_back(one.file);
  }
  expect_unique(where + " external_data", names);
}

// Whether a float is within what a dtype holds; that of 64 bits compares exactly with the limit, which is no float.
inline bool holds(const DTypeRecord& record, double value) {
  if (record.kind == 'f') return std::fabs(value) <= record.largest;
  if (value < static_cast<double>(record.least)) return false;
  return record.size == 8 ? value < record.largest : value <= record.largest;
}

inline void check_knob(const std::string& where, const Knob& knob) {
  expect_text(where, knob.name);
  expect_dtype(where, knob.dtype);
  expect_rank(where, knob.shape.size());
  bool fine = true;
  int64_t size = 1;
  for (const int64_t axis : knob.shape) {
    fine = fine && axis >= 1 && axis <= 65'536 && (size *= axis) <= 65'536;
  }
  expect(fine, [&] { return where + ": shape " + shown(knob.shape); }, "fixed sizes, at most 65536 values");
  if (knob.name == price_knob || knob.name == token_price_knob) {
    expect(
        knob.dtype == "float32" && size == 1, [&] { return where + ": " + knob.dtype + " " + shown(knob.shape); },
        "float32 [1]");
  }
  const DTypeRecord& record = *dtype_named(knob.dtype);
  const bool thresholds = knob.name == thresholds_knob;
  for (const double value : {knob.minimum, knob.maximum, knob.default_value}) {
    const bool held = holds(record, value) || (thresholds && std::isinf(value));
    expect(
        held, [&] { return where + ": " + text::number(value); },
        [&] { return "a number that " + knob.dtype + " can hold"; });
  }
  expect(
      knob.minimum <= knob.default_value && knob.default_value <= knob.maximum,
      [&] {
        return where + ": minimum " + text::number(knob.minimum) + ", default " + text::number(knob.default_value) +
               ", maximum " + text::number(knob.maximum);
      },
      "minimum <= default <= maximum");
  expect(
      record.kind == 'f' || thresholds || knob.default_value == std::floor(knob.default_value),
      [&] { return where + ": default " + text::number(knob.default_value); }, "a whole number");
}

inline void check_macs_output(const std::vector<TensorSpec>& outputs) {
  for (const TensorSpec& spec : outputs) {
    if (spec.name != macs_output) continue;
    expect(
        spec.dtype == "float32" && spec.shape.size() == 1,
        [&] { return "outputs 'macs_fraction': " + spec.dtype + " " + shown(spec.shape); }, "float32 ['batch']");
    return;
  }
  std::vector<std::string> names;
  for (const TensorSpec& spec : outputs) names.push_back(spec.name);
  refuse("outputs: " + quoted_list(names, 10), "'macs_fraction' among them");
}

inline void check_preprocessing_files(const Bundle& bundle) {
  std::vector<std::string> roles, names = {bundle_file};
  for (const Stage& stage : bundle.stages) names.push_back(stage.file);
  for (const PreprocessingFile& entry : bundle.files) {
    const std::string where = "files " + text::brief(entry.role);
    expect_text("files role", entry.role);
    check_file(where, entry.file, entry.sha256, {});
    expect(
        entry.file.find('/') == std::string::npos, [&] { return where + ": path " + text::brief(entry.file); },
        "a file directly in the bundle's folder");
    roles.push_back(entry.role);
    names.push_back(entry.file);
  }
  expect_unique("files' roles", roles);
  expect_unique("files and stages", names);
}

inline void check_dense(const Bundle& bundle) {
  const Dense& dense = bundle.dense;
  const std::pair<const char*, int64_t> numbers[] = {{"macs", dense.macs}, {"parameters", dense.parameters}};
  for (const auto& [key, value] : numbers) {
    expect(
        value >= 1, [k = key, v = value] { return std::string("dense: ") + k + " " + std::to_string(v); },
        "1 to 2^63 - 1");
  }
  expect_finite("dense quality", dense.quality);
  if (dense.file) check_file("dense", *dense.file, dense.sha256.value_or(""), dense.external_data);
  expect(!dense.unsplit || (dense.file && bundle.stages.size() > 1), "dense: unsplit true",
         "false without a file of the dense model, and in a bundle of one stage");
  expect(!dense.answers_full || dense.file, "dense: answers_full true", "false without a file of the dense model");
}

inline void check_class_names(const Bundle& bundle) {
  for (const std::string& name : bundle.class_names) expect_text("class_names", name);
  for (const TensorSpec& spec : bundle.outputs) {
    if (bundle.class_names.empty() || spec.name != "logits" || spec.shape.empty()) continue;
    const auto* classes = std::get_if<int64_t>(&spec.shape.back());
    expect(
        !classes || static_cast<int64_t>(bundle.class_names.size()) == *classes,
        [&] { return "class_names: " + std::to_string(bundle.class_names.size()) + " names"; },
        [&] { return std::to_string(*classes) + ", as many as logits has classes, or none"; });
  }
}

}  // namespace values

// Check everything about a bundle that needs no file. Throws `Invalid`, which names the first value that was wrong.
inline void check_bundle(const Bundle& bundle) {
  expect_text("name", bundle.name);
  expect_text("producer", bundle.producer);
  if (bundle.quality_metric) expect_text("quality_metric", *bundle.quality_metric);
  if (bundle.task) expect_text("task", *bundle.task);
  values::expect_count("inputs", bundle.inputs.size(), 1, max_entries);
  values::expect_count("outputs", bundle.outputs.size(), 1, max_entries);
  values::expect_count("stages", bundle.stages.size(), 1, max_entries);
  values::expect_count("knobs", bundle.knobs.size(), 0, max_entries);
  values::expect_count("curve", bundle.curve.size(), 0, max_curve_points);
  values::expect_count("ops", bundle.ops.size(), 0, max_entries);
  values::expect_count("files", bundle.files.size(), 0, max_preprocessing_files);
  values::expect_count("class_names", bundle.class_names.size(), 0, max_classes);
  std::vector<std::string> given, put_out, files;
  for (const TensorSpec& spec : bundle.inputs) {
    check_tensor("inputs " + text::brief(spec.name), spec);
    check_limits("inputs " + text::brief(spec.name), spec);
    given.push_back(spec.name);
  }
  for (const TensorSpec& spec : bundle.outputs) {
    check_tensor("outputs " + text::brief(spec.name), spec);
    put_out.push_back(spec.name);
  }
  for (const Knob& knob : bundle.knobs) {
    values::check_knob("knobs " + text::brief(knob.name), knob);
    given.push_back(knob.name);
  }
  expect_unique("inputs and knobs", given);
  expect_unique("outputs", put_out);
  values::check_macs_output(bundle.outputs);
  for (size_t i = 0; i < bundle.stages.size(); ++i) {
    const Stage& stage = bundle.stages[i];
    values::check_file("stages[" + std::to_string(i) + "]", stage.file, stage.sha256, stage.external_data);
    files.push_back(stage.file);
  }
  expect_unique("stages", files);
  values::check_dense(bundle);
  values::check_preprocessing_files(bundle);
  values::check_class_names(bundle);
  check_stages(bundle);
  check_decisions(bundle);
  check_axes(bundle);
  check_sources(bundle);
  check_curve(bundle);
  check_budget_table(bundle);
  for (const auto& [op, learners] : bundle.ops) {
    expect_text("ops", op);
    expect(
        1 <= learners && learners <= max_size,
        [&op = op, &learners = learners] {
          return "ops " + text::quoted(op) + ": " + std::to_string(learners) + " learners";
        },
        [] { return "1 to " + std::to_string(max_size); });
  }
}

}  // namespace adaptrt::bundle
