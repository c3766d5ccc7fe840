#include "scenario.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace adaptrt::host {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginFieldType;

namespace {

struct TypeRow {
  DataType type;
  char const* name;
  size_t bytes;
};

constexpr TypeRow kTypes[] = {
    {DataType::kFLOAT, "float32", 4}, {DataType::kHALF, "float16", 2}, {DataType::kBF16, "bfloat16", 2},
    {DataType::kINT32, "int32", 4},   {DataType::kINT64, "int64", 8},  {DataType::kBOOL, "bool", 1},
    {DataType::kINT8, "int8", 1},     {DataType::kUINT8, "uint8", 1},
};

std::vector<std::string> split(std::string const& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text == "-" ? "" : text);
  std::string part;
  while (std::getline(stream, part, ',')) {
    parts.push_back(part);
  }
  return parts;
}

Dims dimsOf(std::string const& text) {
  std::vector<std::string> const parts = split(text);
  Dims dims{};
  if (parts.size() > static_cast<size_t>(Dims::MAX_DIMS)) {
    throw std::runtime_error("too many axes");
  }
  dims.nbDims = static_cast<int32_t>(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    dims.d[i] = std::stoll(parts[i]);
  }
  return dims;
}

template <typename T>
std::vector<char> bytesOfValue(T value) {
  std::vector<char> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

Field fieldOf(std::string const& name, std::string const& type, std::string const& value) {
  if (type == "int32") {
    return {name, PluginFieldType::kINT32, 1, bytesOfValue(static_cast<int32_t>(std::stol(value)))};
  }
  if (type == "int64") {
    return {name, PluginFieldType::kINT64, 1, bytesOfValue(static_cast<int64_t>(std::stoll(value)))};
  }
  if (type == "float") {
    return {name, PluginFieldType::kFLOAT32, 1, bytesOfValue(std::stof(value))};
  }
  if (type == "char") {
    return {name, PluginFieldType::kCHAR, static_cast<int32_t>(value.size()), {value.begin(), value.end()}};
  }
  throw std::runtime_error("unknown type of field " + type);
}

Run runOf(std::string const& how) {
  Run run;
  for (std::string const& word : split(how)) {
    bool* const flag = word == "capture"       ? &run.captures
                       : word == "renew"       ? &run.renews
                       : word == "unaligned"   ? &run.unaligned
                       : word == "unannounced" ? &run.unannounced
                                               : nullptr;
    if (flag == nullptr) {
      throw std::runtime_error("unknown kind of run " + word);
    }
    *flag = true;
  }
  return run;
}

void readLine(std::string const& line, Scenario& scenario) {
  std::istringstream words(line);
  std::string what;
  std::string a;
  std::string b;
  std::string c;
  words >> what >> a >> b >> c;
  if (what == "plugin") {
    scenario.plugin = a;
  } else if (what == "field") {
    scenario.fields.push_back(fieldOf(a, b, c));
  } else if (what == "input") {
    for (TypeRow const& row : kTypes) {
      if (a == row.name) {
        scenario.inputs.push_back({row.type, split(b), dimsOf(c)});
        return;
      }
    }
    throw std::runtime_error("unknown dtype " + a);
  } else if (what == "run") {
    scenario.runs.push_back(runOf(a));
  } else if (what == "feed") {
    scenario.runs.at(scenario.runs.size() - 1).feeds.push_back({dimsOf(a), b});
  } else if (what == "result") {
    scenario.runs.at(scenario.runs.size() - 1).results.push_back(a);
  } else if (!what.empty()) {
    throw std::runtime_error("unknown word " + what);
  }
}

}  // namespace

Scenario readScenario(std::string const& path) {
  std::ifstream stream(path);
  if (!stream) {
    throw std::runtime_error("got no readable scenario " + path);
  }
  Scenario scenario;
  std::string line;
  while (std::getline(stream, line)) {
    try {
      readLine(line, scenario);
    } catch (std::exception const& error) {
      throw std::runtime_error("scenario line \"" + line + "\": " + error.what());
    }
  }
  return scenario;
}

size_t bytesOf(DataType type) {
  for (TypeRow const& row : kTypes) {
    if (row.type == type) {
      return row.bytes;
    }
  }
  throw std::runtime_error("a type without bytes");
}

std::string nameOf(DataType type) {
  for (TypeRow const& row : kTypes) {
    if (row.type == type) {
      return row.name;
    }
  }
  return "type " + std::to_string(static_cast<int32_t>(type));
}

int64_t elements(Dims const& dims) {
  int64_t product = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    product *= dims.d[i];
  }
  return product;
}

}  // namespace adaptrt::host
