// Mutates bundle.json files and reads them: each must be refused with one line, or pass.
//
//   adaptrt_fuzz TIMES SEED FILE…
//
// Bytes are turned, cut and put in; numbers, texts and whole values are put in each other's places, which keeps the
// JSON in order and gets deeper.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

#include "adaptrt/bundle/json_form.hpp"
#include "adaptrt/bundle/validation.hpp"

namespace {

using Json = nlohmann::json;
std::mt19937_64 generator;

size_t below(size_t end) { return std::uniform_int_distribution<size_t>(0, end - 1)(generator); }

void collect(Json& value, std::vector<Json*>& all) {
  all.push_back(&value);
  if (value.is_structured()) {
    for (Json& one : value) collect(one, all);
  }
}

std::string by_value(const std::string& text) {
  Json content = Json::parse(text);
  for (size_t changes = 1 + below(3); changes-- > 0;) {
    std::vector<Json*> places;
    collect(content, places);
    Json& place = *places[below(places.size())];
    const Json strange[] = {nullptr,
                            true,
                            -1,
                            0,
                            1,
                            2147483648u,
                            UINT64_MAX,
                            INT64_MIN,
                            1e308,
                            -0.0,
                            0.5,
                            "",
                            "..",
                            "/etc/passwd",
                            "a\nb",
                            "batch",
                            Json::array(),
                            Json::object(),
                            Json::array({1, "x", nullptr}),
                            std::string(2000, 'x'),
                            "\xC2\xA0",
                            "sample"};
    switch (below(4)) {
      case 0: place = strange[below(std::size(strange))]; break;
      case 1: place = Json(*places[below(places.size())]); break;
      case 2:
        if (place.is_object() && !place.empty())
          place.erase(std::next(place.begin(), static_cast<ptrdiff_t>(below(place.size()))));
        else if (place.is_array() && !place.empty())
          place.erase(below(place.size()));
        break;
      default:
        if (place.is_array() && !place.empty())
          place.push_back(Json(place[below(place.size())]));
        else if (place.is_number())
          place = place.get<double>() * 1.5 - 1;
    }
  }
  return content.dump();
}

std::string by_byte(std::string text) {
  for (size_t changes = 1 + below(4); changes-- > 0 && !text.empty();) {
    const size_t place = below(text.size());
    switch (below(4)) {
      case 0: text[place] = static_cast<char>(text[place] ^ (1 << below(8))); break;
      case 1: text.erase(place, 1 + below(20)); break;
      case 2: text.insert(place, text.substr(below(text.size()), 1 + below(40))); break;
      default: text.insert(place, 1 + below(2000), "[{\"0-"[below(5)]);
    }
  }
  return text;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    std::fprintf(stderr, "got %d words, expected TIMES SEED FILE…\n", count - 1);
    return 2;
  }
  generator.seed(std::strtoull(words[2], nullptr, 10));
  std::vector<std::string> seeds;
  for (int i = 3; i < count; ++i) {
    std::ifstream file(words[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  long refused = 0;
  const long times = std::atol(words[1]);
  for (long i = 0; i < times; ++i) {
    const std::string& seed = seeds[below(seeds.size())];
    const std::string text = below(3) ? by_value(seed) : by_byte(seed);
    try {
      adaptrt::bundle::check_bundle(adaptrt::bundle::decode_bundle(text));
    } catch (const adaptrt::bundle::Invalid& error) {
      ++refused;
      const std::string said = error.what();
      if (said.find('\n') != std::string::npos || said.find("; ") == std::string::npos) {
        std::fprintf(stderr, "got %s, expected one line with what to do\n", said.c_str());
        return 1;
      }
    }
  }
  std::printf("{\"times\": %ld, \"refused\": %ld}\n", times, refused);
  return 0;
}
