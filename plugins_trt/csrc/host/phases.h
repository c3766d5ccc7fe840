// TensorRT's part: what it asks of a plugin while it builds an engine, and what while it runs one.
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

#include "expressions.h"
#include "gpu.h"
#include "json.h"
#include "scenario.h"

namespace adaptrt::host {

// A plugin's function gave failure; the report then ends with the phase's name.
class PhaseFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

// What an engine keeps of a plugin.
struct Built {
  std::vector<Field> fields;
  std::vector<nvinfer1::DataType> outputTypes;
  std::vector<std::vector<Expression const*>> outputShapes;
  size_t workspace = 0;
};

// Adds its findings to the report as it goes, so that they are there even where it throws PhaseFailed.
Built build(Scenario const& scenario, nvinfer1::IPluginCreatorV3One& creator, ExpressionBuilder& builder,
            JsonObject& report);

Plugin create(Scenario const& scenario, nvinfer1::IPluginCreatorV3One& creator, std::vector<Field> const& fields,
              nvinfer1::TensorRTPhase phase);

void run(Scenario const& scenario, Built const& built, nvinfer1::IPluginCreatorV3One& creator,
         nvinfer1::IErrorRecorder& recorder, Gpu& gpu, JsonObject& report);

}  // namespace adaptrt::host
