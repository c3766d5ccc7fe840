// Writes JSON, as little of it as the host's reports take.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace adaptrt::host {

inline std::string jsonText(std::string const& text) {
  std::string out = "\"";
  for (char const character : text) {
    auto const code = static_cast<unsigned char>(character);
    if (character == '"' || character == '\\') {
      out += '\\';
      out += character;
    } else if (code < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", code);
      out += escape;
    } else {
      out += character;
    }
  }
  return out + "\"";
}

inline std::string jsonList(std::vector<std::string> const& values) {
  std::string out = "[";
  for (size_t i = 0; i < values.size(); ++i) {
    out += (i == 0 ? "" : ", ") + values[i];
  }
  return out + "]";
}

// An object's members, in the order they were added; values are JSON already.
class JsonObject {
 public:
  JsonObject& add(std::string const& name, std::string const& value) {
    members_.push_back(jsonText(name) + ": " + value);
    return *this;
  }
  JsonObject& text(std::string const& name, std::string const& value) { return add(name, jsonText(value)); }
  JsonObject& number(std::string const& name, long long value) { return add(name, std::to_string(value)); }
  JsonObject& truth(std::string const& name, bool value) { return add(name, value ? "true" : "false"); }
  std::string str() const {
    std::string out = "{";
    for (size_t i = 0; i < members_.size(); ++i) {
      out += (i == 0 ? "" : ", ") + members_[i];
    }
    return out + "}";
  }

 private:
  std::vector<std::string> members_;
};

}  // namespace adaptrt::host
