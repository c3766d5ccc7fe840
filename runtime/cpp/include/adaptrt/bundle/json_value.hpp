// JSON as a tree. nlohmann-json reads the text; its own values, which can do much more, would double a small program.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace adaptrt::bundle {

// The text is no JSON; becomes a bundle's error once the file is known.
class NotJson : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  using List = std::vector<Json>;
  using Object = std::map<std::string, Json>;

  Json() = default;
  template <class Content>
  Json(Content content) : content_(std::move(content)) {}
  Json(const char* text) : content_(std::string(text)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(content_); }
  const bool* flag() const { return std::get_if<bool>(&content_); }
  const int64_t* negative() const { return std::get_if<int64_t>(&content_); }   // below 0
  const uint64_t* natural() const { return std::get_if<uint64_t>(&content_); }  // 0 or more
  const double* fraction() const { return std::get_if<double>(&content_); }     // written with a point or an exponent
  const std::string* text() const { return std::get_if<std::string>(&content_); }
  const List* list() const { return std::get_if<List>(&content_); }
  const Object* object() const { return std::get_if<Object>(&content_); }
  List* list() { return std::get_if<List>(&content_); }
  Object* object() { return std::get_if<Object>(&content_); }

  bool is_whole() const { return negative() || natural(); }
  bool is_number() const { return is_whole() || fraction(); }
  // Of a number.
  double number() const {
    return fraction() ? *fraction() : natural() ? static_cast<double>(*natural()) : static_cast<double>(*negative());
  }

  // What a value is called in messages.
  const char* kind() const {
    static constexpr const char* names[] = {"null", "bool", "int", "int", "float", "str", "array", "object"};
    return names[content_.index()];
  }

  // Read a text. Throws `NotJson`.
  static Json parse(std::string_view text);

 private:
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, List, Object> content_;
};

// Builds a tree from what nlohmann-json tells of a text, whose names these functions have.
class JsonBuilder {
 public:
  Json root;
  std::string problem;

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(int64_t value) { return add(Json(value)); }
  bool number_unsigned(uint64_t value) { return add(Json(value)); }
  bool number_float(double value, const std::string&) { return add(Json(value)); }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(Json(Json::Object())); }
  bool start_array(std::size_t) { return open(Json(Json::List())); }
  bool key(std::string& value) {
    keys_.back() = std::move(value);
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    problem = error.what();
    return false;
  }

 private:
  static constexpr size_t deepest = 500;  // what goes through a tree calls itself

  Json& place() {
    if (open_.empty()) return root;
    if (Json::List* list = open_.back()->list()) return list->emplace_back();
    return (*open_.back()->object())[keys_.back()];  // of a key that stands twice the last one counts
  }
  bool add(Json value) {
    place() = std::move(value);
    return true;
  }
  bool open(Json value) {
    if (open_.size() == deepest) {
      problem = "nested more than " + std::to_string(deepest) + " deep";
      return false;
    }
    Json& opened = place();
    opened = std::move(value);
    open_.push_back(&opened);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::vector<Json*> open_;
  std::vector<std::string> keys_;
};

inline Json Json::parse(std::string_view text) {
  JsonBuilder builder;
  if (!nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &builder)) throw NotJson(builder.problem);
  return std::move(builder.root);
}

}  // namespace adaptrt::bundle
