// Reading values out of JSON by their types, with the place in the message where one is of another.
#pragma once

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "adaptrt/bundle/expectations.hpp"
#include "adaptrt/bundle/json_value.hpp"

namespace adaptrt::bundle {

// One value, and the way to it: `$.stages[0].carry`.
class JsonNode {
 public:
  explicit JsonNode(const Json& value) : value_(value) {}

  const Json& value() const { return value_; }

  std::string text() const { return *is(value_.text(), "str").text(); }
  bool flag() const { return *is(value_.flag(), "bool").flag(); }
  double number() const { return is(value_.is_number(), "float").number(); }

  int64_t whole() const {
    is(value_.is_whole(), "int");
    if (value_.negative()) return *value_.negative();
    // What is beyond is beyond every limit, too.
    if (*value_.natural() > INT64_MAX) fail("int` below `2^63", std::to_string(*value_.natural()));
    return static_cast<int64_t>(*value_.natural());
  }

  Limit limit() const {
    is(value_.is_whole(), "int | null");
    if (value_.natural()) return {false, *value_.natural()};
    const int64_t number = *value_.negative();  // -0 is 0
    return {number < 0, number < 0 ? ~static_cast<uint64_t>(number) + 1 : 0};
  }

  Size size(const char* type = "int | str") const {
    if (value_.text()) return *value_.text();
    is(value_.is_whole(), type);
    return whole();
  }

  // A number or a list of them; null where a threshold may be infinite.
  KnobValue knob_value(bool null_is_infinity) const {
    const auto one = [&](const JsonNode& node) {
      return null_is_infinity && node.value_.is_null() ? infinity : node.number();
    };
    if (value_.list()) return list<double>(one);
    is(value_.is_number() || (null_is_infinity && value_.is_null()), "float | array");
    return one(*this);
  }

  // The value of a key; an error where there is none.
  JsonNode at(const char* key) const {
    const Json::Object& entries = *is(value_.object(), "object").object();
    const auto found = entries.find(key);
    if (found == entries.end())
      throw Invalid("Object missing required field `" + std::string(key) + "`" + place() + "; " + again);
    return JsonNode(found->second, this, key, -1);
  }

  // The same where it may be left out: what `read` makes of it, or nothing changes.
  template <class Value, class Read>
  void maybe(const char* key, Value& into, Read&& read) const {
    const Json::Object& entries = *is(value_.object(), "object").object();
    const auto found = entries.find(key);
    if (found != entries.end()) into = read(JsonNode(found->second, this, key, -1));
  }

  // Null or a value.
  template <class Value, class Read>
  std::optional<Value> optional(const char* type, bool fine, Read&& read) const {
    if (value_.is_null()) return std::nullopt;
    is(fine, type);
    return read(*this);
  }
  std::optional<std::string> optional_text() const {
    return optional<std::string>("str | null", value_.text(), [](const JsonNode& node) { return node.text(); });
  }
  std::optional<double> optional_number() const {
    return optional<double>("float | null", value_.is_number(), [](const JsonNode& node) { return node.number(); });
  }
  std::optional<int64_t> optional_whole() const {
    return optional<int64_t>("int | null", value_.is_whole(), [](const JsonNode& node) { return node.whole(); });
  }
  std::optional<Limit> optional_limit() const {
    return optional<Limit>("int | null", value_.is_whole(), [](const JsonNode& node) { return node.limit(); });
  }
  template <class Value, class Read>
  std::optional<Value> optional_object(Read&& read) const {
    return optional<Value>("object | null", value_.object(), read);
  }

  template <class Value, class Read>
  std::vector<Value> list(Read&& read) const {
    const Json::List& entries = *is(value_.list(), "array").list();
    std::vector<Value> all;
    all.reserve(entries.size());
    for (size_t i = 0; i < entries.size(); ++i)
      all.push_back(read(JsonNode(entries[i], this, nullptr, static_cast<int64_t>(i))));
    return all;
  }

  template <class Value, class Read>
  std::map<std::string, Value> entries(Read&& read) const {
    std::map<std::string, Value> all;
    for (const auto& [key, value] : *is(value_.object(), "object").object()) {
      all.emplace_hint(all.end(), key, read(key, JsonNode(value, this, nullptr, -1)));
    }
    return all;
  }

 private:
  JsonNode(const Json& value, const JsonNode* parent, const char* key, int64_t index)
      : value_(value), parent_(parent), key_(key), index_(index) {}

  const Json& is(bool fine, const char* type) const {
    if (!fine) fail(type, value_.kind());
    return value_;
  }

  [[noreturn]] void fail(const char* type, const std::string& got) const {
    throw Invalid("Expected `" + std::string(type) + "`, got `" + got + "`" + place() + "; " + again);
  }

  std::string place() const { return parent_ ? " - at `" + path() + "`" : ""; }
  std::string path() const {
    if (!parent_) return "$";
    if (key_) return parent_->path() + "." + key_;
    return parent_->path() + (index_ < 0 ? "[...]" : "[" + std::to_string(index_) + "]");
  }

  const Json& value_;
  const JsonNode* parent_ = nullptr;
  const char* key_ = nullptr;
  int64_t index_ = -1;
};

}  // namespace adaptrt::bundle
