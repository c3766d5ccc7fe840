// Values as messages show them, the way the Python runtime does, so that both say the same.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace adaptrt::text {

// The code points of UTF-8; a byte that begins none is one by itself.
inline std::vector<uint32_t> code_points(std::string_view utf8) {
  std::vector<uint32_t> points;
  points.reserve(utf8.size());
  for (size_t i = 0; i < utf8.size();) {
    const auto first = static_cast<unsigned char>(utf8[i]);
    const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
    uint32_t point = more == 3 ? first & 0x07 : more == 2 ? first & 0x0F : more == 1 ? first & 0x1F : first;
    size_t length = 1;
    for (; length <= static_cast<size_t>(more) && i + length < utf8.size(); ++length) {
      point = point << 6 | (static_cast<unsigned char>(utf8[i + length]) & 0x3F);
    }
    points.push_back(point);
    i += length;
  }
  return points;
}

inline void append(std::string& utf8, uint32_t point) {
  if (point < 0x80) {
    utf8 += static_cast<char>(point);
  } else if (point < 0x800) {
    utf8 += static_cast<char>(0xC0 | point >> 6);
    utf8 += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    utf8 += static_cast<char>(0xE0 | point >> 12);
    utf8 += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    utf8 += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    utf8 += static_cast<char>(0xF0 | point >> 18);
    utf8 += static_cast<char>(0x80 | (point >> 12 & 0x3F));
    utf8 += static_cast<char>(0x80 | (point >> 6 & 0x3F));
    utf8 += static_cast<char>(0x80 | (point & 0x3F));
  }
}

// Whether a terminal shows it as one visible thing: no control or format character, no other space than ' '.
// Python asks the database of Unicode; these are its ranges without the code points that nothing was assigned to.
inline bool is_printable(uint32_t point) {
  struct Range {
    uint32_t first, last;
  };
  static constexpr Range hidden[] = {
      {0x00, 0x1F},     {0x7F, 0xA0},     {0xAD, 0xAD},       {0x600, 0x605},      {0x61C, 0x61C},
      {0x6DD, 0x6DD},   {0x70F, 0x70F},   {0x1680, 0x1680},   {0x180E, 0x180E},    {0x2000, 0x200F},
      {0x2028, 0x202F}, {0x205F, 0x206F}, {0x3000, 0x3000},   {0xD800, 0xF8FF},    {0xFEFF, 0xFEFF},
      {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF}, {0xE0000, 0xE007F}, {0xF0000, 0x10FFFF},
  };
  for (const Range& range : hidden) {
    if (point >= range.first && point <= range.last) return false;
  }
  return true;
}

inline bool is_printable(std::string_view utf8) {
  for (const uint32_t point : code_points(utf8)) {
    if (!is_printable(point)) return false;
  }
  return true;
}

// A text in quotes, on one line.
inline std::string quoted(std::string_view value) {
  const bool single = value.find('\'') != std::string_view::npos && value.find('"') == std::string_view::npos;
  const char quote = single ? '"' : '\'';
  std::string shown(1, quote);
  char escape[16];
  for (const uint32_t point : code_points(value)) {
    if (point == '\\' || point == static_cast<uint32_t>(quote)) {
      shown += '\\';
      shown += static_cast<char>(point);
    } else if (point == '\n' || point == '\r' || point == '\t') {
      shown += point == '\n' ? "\\n" : point == '\r' ? "\\r" : "\\t";
    } else if (is_printable(point)) {
      append(shown, point);
    } else {
      std::snprintf(escape, sizeof escape, point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x", point);
      shown += escape;
    }
  }
  return shown + quote;
}

// A text from a bundle, cut where it grows long.
inline std::string brief(std::string_view value) {
  const std::vector<uint32_t> points = code_points(value);
  if (points.size() <= 80) return text::quoted(value);
  std::string cut;
  for (size_t i = 0; i < 80; ++i) append(cut, points[i]);
  return text::quoted(cut + "…");
}

// The shortest digits that give the same float64 again; 1.0 and 1e+16 as Python writes them.
inline std::string number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view shortest(buffer, static_cast<size_t>(end - buffer));
  const size_t e = shortest.find('e');
  const int exponent = std::atoi(std::string(shortest.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(shortest);
  std::string fixed(40 + 330, '\0');
  const auto fixed_end = std::to_chars(fixed.data(), fixed.data() + fixed.size(), value, std::chars_format::fixed).ptr;
  fixed.resize(static_cast<size_t>(fixed_end - fixed.data()));
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

// At most so many digits that count, such as 0.3333 or 2e+09.
inline std::string digits(double value, int count = 6) {
  if (std::isnan(value)) return "nan";
  char buffer[48];
  std::snprintf(buffer, sizeof buffer, "%.*g", count, value);
  return buffer;
}

// A text as JSON has it.
inline std::string json(std::string_view value) {
  std::string quoted = "\"";
  char escape[8];
  for (const char c : value) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) {
      quoted += c;
      continue;
    }
    std::snprintf(escape, sizeof escape, "\\u%04x", c);
    quoted += escape;
  }
  return quoted + '"';
}

// Texts with commas between them, at most `most`; `none` where there are none.
inline std::string joined(const std::vector<std::string>& parts, const char* none = "none", size_t most = SIZE_MAX) {
  if (parts.empty()) return none;
  std::string all;
  for (size_t i = 0; i < parts.size() && i < most; ++i) all += (i ? ", " : "") + parts[i];
  return all;
}

// The bytes of the code point of UTF-8 that begins here; 0 where none does.
inline size_t sequence_length(std::string_view text, size_t begin) {
  const auto first = static_cast<unsigned char>(text[begin]);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF5 || first < 0xC2 ? 0 : first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (begin + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[begin + i]) & 0xC0) != 0x80) return 0;
  }
  return length;
}

// The text of another library's error on one line, cut where it grows long; it may quote bytes that are no text.
inline std::string one_line(std::string_view message) {
  std::string line;
  for (size_t i = 0; i < message.size();) {
    const size_t length = sequence_length(message, i);
    const char c = message[i];
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (line.size() > 300) return line + "…";
    if (length == 0 || (!space && static_cast<unsigned char>(c) < 0x20))
      line += '?';
    else if (!space)
      line += message.substr(i, length);
    else if (!line.empty() && line.back() != ' ')
      line += ' ';
    i += length ? length : 1;
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

}  // namespace adaptrt::text
