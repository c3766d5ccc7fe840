// What to do with one plugin, as read from a text.
//
//   plugin NAME
//   field NAME int32|int64|char|float VALUE          a field of the creator's
//   input DTYPE AXES MOST                            AXES "T,64" or "-" for a scalar; MOST the same with numbers only
//   run [capture|renew|unaligned|unannounced]        enqueue once; several, separated by commas
//   feed AXES FILE                                   the next input's shape and bytes
//   result FILE                                      where the next output's bytes go
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

namespace adaptrt::host {

struct Field {
  std::string name;
  nvinfer1::PluginFieldType type;
  int32_t length;
  std::vector<char> bytes;
};

struct Input {
  nvinfer1::DataType type;
  std::vector<std::string> axes;  // a number, or the symbol of a dynamic axis
  nvinfer1::Dims most;
};

struct Feed {
  nvinfer1::Dims dims;
  std::string file;
};

struct Run {
  bool captures = false;     // enqueue into a CUDA graph and launch that
  bool renews = false;       // another CUDA context before it
  bool unaligned = false;    // the first input four bytes off
  bool unannounced = false;  // without onShapeChange
  std::vector<Feed> feeds;
  std::vector<std::string> results;
};

struct Scenario {
  std::string plugin;
  std::vector<Field> fields;
  std::vector<Input> inputs;
  std::vector<Run> runs;
};

// Throws std::runtime_error with the line that cannot be read.
Scenario readScenario(std::string const& path);

size_t bytesOf(nvinfer1::DataType type);
std::string nameOf(nvinfer1::DataType type);
int64_t elements(nvinfer1::Dims const& dims);

}  // namespace adaptrt::host
