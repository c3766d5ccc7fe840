// Saying what is wrong with a bundle's content: the sentences that all of its validation is made of.
#pragma once

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "adaptrt/bundle/schema.hpp"
#include "adaptrt/message_text.hpp"

namespace adaptrt::bundle {

inline constexpr size_t max_text = 1'000;
inline constexpr const char* again = "export the model again";

// What is wrong and what to do, without saying which bundle.
class Invalid : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void refuse(const std::string& got, const std::string& expected) {
  throw Invalid(got + ", expected " + expected + "; " + again);
}

// The texts are made only where they are needed: `got` and `expected` are calls or texts.
template <class Got, class Wanted>
void expect(bool fine, const Got& got, const Wanted& expected) {
  if (fine) return;
  const auto text = [](const auto& what) -> std::string {
    if constexpr (std::is_invocable_v<decltype(what)>)
      return what();
    else
      return what;
  };
  refuse(text(got), text(expected));
}

// Names are shown to people: no control characters, no novels.
inline void expect_text(const std::string& where, const std::string& value) {
  const bool fine = !value.empty() && (value.size() <= max_text || text::code_points(value).size() <= max_text) &&
                    text::is_printable(value);
  expect(
      fine, [&] { return where + ": " + text::brief(value); },
      [] { return "1 to " + std::to_string(max_text) + " printable characters"; });
}

inline void expect_unique(const std::string& where, std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  for (size_t i = 1; i < names.size(); ++i) {
    expect(names[i - 1] != names[i], [&] { return where + ": " + text::brief(names[i]) + " twice"; }, "each name once");
  }
}

inline void expect_finite(const std::string& where, const std::optional<double>& value) {
  expect(!value || std::isfinite(*value), [&] { return where + ": " + text::number(*value); }, "a finite number");
}

inline std::string shown(const Size& size) {
  const auto* number = std::get_if<int64_t>(&size);
  return number ? std::to_string(*number) : text::quoted(std::get<std::string>(size));
}

// Such as `['batch', 6]`.
inline std::string shown(const Sizes& shape) {
  std::string all = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) all += (axis ? ", " : "") + shown(shape[axis]);
  return all + "]";
}

inline std::string shown(const std::vector<int64_t>& shape) {
  Sizes sizes(shape.begin(), shape.end());
  return shown(sizes);
}

inline std::string shown(const std::optional<Limit>& limit) { return limit ? limit->text() : "None"; }

// Names in quotes with commas between them, as a list or a sentence has them.
inline std::string quoted_list(const std::vector<std::string>& names, size_t most = SIZE_MAX) {
  std::vector<std::string> each;
  for (size_t i = 0; i < names.size() && i < most; ++i) each.push_back(text::quoted(names[i]));
  return text::joined(each, "");
}

inline bool is_name(const Size& size, const std::string& name) {
  const auto* axis = std::get_if<std::string>(&size);
  return axis && *axis == name;
}

}  // namespace adaptrt::bundle
