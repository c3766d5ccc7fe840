// Bundles of format 1, read as bundles of this format where nothing is missing; see `runtime/bundle/format_1.py`.
#pragma once

#include <string>

#include "adaptrt/bundle/json_reader.hpp"

namespace adaptrt::bundle {

inline constexpr int former_version = 1;

namespace format_1 {

inline Json record(const char* kind, const std::string& number, const Json::Object& outputs) {
  return Json::Object{{"kind", kind}, {"number", static_cast<uint64_t>(std::stoul(number))}, {"outputs", outputs}};
}

// `learners_<g>`, and `kept_<s>` followed by `count_<s>`.
inline Json decisions(const std::string& where, const std::vector<std::string>& names) {
  Json::List records;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string& name = names[i];
    const bool learners = name.rfind("learners_", 0) == 0;
    const std::string number = learners ? name.substr(9) : name.rfind("kept_", 0) == 0 ? name.substr(5) : "";
    const bool fine =
        !number.empty() && number.size() <= 9 && number.find_first_not_of("0123456789") == std::string::npos;
    expect(fine, [&] { return where + ": " + text::brief(name); }, "learners_<number> or kept_<number>");
    if (learners) {
      records.push_back(record("learners", number, {{"runs", name}}));
      continue;
    }
    const std::string count = i + 1 < names.size() ? names[++i] : "nothing";
    expect(
        count == "count_" + number, [&] { return where + ": " + text::brief(count) + " after " + text::brief(name); },
        [&] { return "'count_" + number + "'"; });
    records.push_back(record("selection", number, {{"index", name}, {"count", count}}));
  }
  return records;
}

inline void name_decisions(Json& content) {
  const JsonNode root(content);
  Json size;  // null where nobody says
  bool masked = false, told = false;
  std::vector<Json> by_stage;
  root.maybe("tokens", size, [](const JsonNode& node) {
    const bool fine = node.value().text() || node.value().is_whole();
    node.optional<Size>("int | str | null", fine, [](const JsonNode& one) { return one.size(); });
    return node.value();
  });
  root.at("stages").list<bool>([&](const JsonNode& stage) {
    std::vector<std::string> names;
    stage.maybe("decisions", names, [](const JsonNode& list) {
      return list.list<std::string>([](const JsonNode& name) { return name.text(); });
    });
    std::vector<std::string> carried;
    stage.maybe("carry", carried, [](const JsonNode& list) {
      return list.list<std::string>([](const JsonNode& carry) { return carry.at("name").text(); });
    });
    for (const std::string& name : carried) masked |= name == "valid";
    told |= !names.empty();
    by_stage.push_back(decisions("stages[" + std::to_string(by_stage.size()) + "] decisions", names));
    return true;
  });
  Json::Object& entries = *content.object();
  entries.erase("tokens");
  Json::List& stages = *entries.at("stages").list();
  for (size_t i = 0; i < by_stage.size(); ++i) (*stages[i].object())["decisions"] = by_stage[i];
  if (masked || told) {
    const Json set = Json::Object{{"size", size}, {"valid", masked ? Json("valid") : Json()}};
    entries["tokens"] = Json::Object{{"tokens", set}};
  }
}

inline void name_limits(Json& content) {
  const JsonNode root(content);
  std::vector<std::string> batch;
  root.at("outputs").list<bool>([&](const JsonNode& output) {
    const JsonNode shape = output.at("shape");
    const Json::List* sizes = shape.value().list();
    if (output.at("name").text() == macs_output && sizes && !sizes->empty() && sizes->front().text())
      batch.push_back(*sizes->front().text());
    return true;
  });
  Json::Object axes;
  const std::string remedy = ", expected format " + std::to_string(format_version);
  root.at("inputs").list<bool>([&](const JsonNode& spec) {
    const std::string name = spec.at("name").text(), dtype = spec.at("dtype").text();
    if (dtype.substr(dtype.find_first_not_of('u') == std::string::npos ? 0 : dtype.find_first_not_of('u'))
            .rfind("int", 0) == 0) {
      throw Invalid("format 1 with an input " + text::quoted(name) + " of whole numbers" + remedy +
                    ", which says their range; " + again);
    }
    spec.at("shape").list<bool>([&](const JsonNode& size) {
      if (!size.value().text()) return true;
      const std::string axis = size.text();
      if (std::find(batch.begin(), batch.end(), axis) == batch.end()) {
        throw Invalid("format 1 with a named axis " + text::quoted(axis) + " of input " + text::quoted(name) + remedy +
                      ", which says how long it may be; " + again);
      }
      axes[axis] = Json::Object{{"shortest", uint64_t{0}}};
      return true;
    });
    return true;
  });
  (*content.object())["axes"] = axes;
}

// 'Nobody leaves' was the largest exit threshold; null, which stands for infinity here, was not allowed.
inline void name_infinity(Json& content) {
  const JsonNode root(content);
  std::optional<double> never;
  root.at("knobs").list<bool>([&](const JsonNode& knob) {
    if (knob.at("name").text() != thresholds_knob) return true;
    if (!never) never = knob.at("maximum").number();
    for (const char* key : {"minimum", "default"}) knob.at(key).number();
    return true;
  });
  const auto renamed = [&](Json& value) {
    if (value.is_number() && never && value.number() == *never) value = Json();
  };
  Json::Object& entries = *content.object();
  for (Json& knob : *entries.at("knobs").list()) {
    Json::Object& one = *knob.object();
    if (*one.at("name").text() != thresholds_knob) continue;
    one["maximum"] = Json();
    renamed(one.at("default"));
  }
  if (entries.count("curve") == 0) return;
  root.at("curve").list<bool>([](const JsonNode& point) {
    point.at("knobs").entries<KnobValue>(
        [](const std::string&, const JsonNode& value) { return value.knob_value(false); });
    return true;
  });
  for (Json& point : *entries.at("curve").list()) {
    Json::Object& knobs = *point.object()->at("knobs").object();
    const auto value = knobs.find(thresholds_knob);
    if (value == knobs.end()) continue;
    if (Json::List* numbers = value->second.list())
      std::for_each(numbers->begin(), numbers->end(), renamed);
    else
      renamed(value->second);
  }
}

}  // namespace format_1

// Turn the content of format 1 into that of this format, in place.
inline void upgrade(Json& content) {
  format_1::name_decisions(content);
  (*content.object())["format_version"] = uint64_t{format_version};
  format_1::name_limits(content);
  format_1::name_infinity(content);
}

}  // namespace adaptrt::bundle
