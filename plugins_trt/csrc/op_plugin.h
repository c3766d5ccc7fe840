// One plugin class for every op: what differs between ops stands in their contract.
#pragma once

#include <memory>
#include <vector>

#include <NvInferRuntime.h>

#include "launch_plan.h"
#include "op_contract.h"

namespace adaptrt {

class OpPlugin final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
 public:
  OpPlugin(OpContract const& contract, Sizes attributes);
  OpPlugin(OpPlugin const& other);
  OpPlugin& operator=(OpPlugin const&) = delete;
  ~OpPlugin() noexcept override = default;

  // Throws Error where the library has no kernels for the op in any type.
  void expectKernels() const;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  char const* getPluginName() const noexcept override { return contract_.name; }
  char const* getPluginVersion() const noexcept override { return kVersion; }
  char const* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t inputCount,
                          nvinfer1::DynamicPluginTensorDesc const* outputs, int32_t outputCount) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t outputCount, nvinfer1::DataType const* inputs,
                             int32_t inputCount) const noexcept override;
  int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t inputCount, nvinfer1::DimsExprs const* shapes,
                          int32_t shapeCount, nvinfer1::DimsExprs* outputs, int32_t outputCount,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, int32_t inputCount,
                                 int32_t outputCount) noexcept override;
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(contract_.outputs.size()); }
  size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t inputCount,
                          nvinfer1::DynamicPluginTensorDesc const* outputs,
                          int32_t outputCount) const noexcept override;

  int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, int32_t inputCount,
                        nvinfer1::PluginTensorDesc const* outputs, int32_t outputCount) noexcept override;
  int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
                  void const* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

 private:
  TensorRule const& rule(int32_t position) const;
  void expectCounts(int32_t inputCount, int32_t outputCount) const;
  // The type of the node's real tensors; float32 for ops that have none, where it is never asked for.
  ElementType realType(nvinfer1::DataType const* inputs) const;
  bool supportsReal(ElementType real) const;

  OpContract const& contract_;
  Sizes const attributes_;  // what the attributes give
  nvinfer1::IErrorRecorder* recorder_ = nullptr;
  std::unique_ptr<LaunchPlan> plan_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection fieldCollection_{};
  int32_t version_;
  std::vector<int32_t> numbers_;
};

class OpCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit OpCreator(OpContract const& contract);

  nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &fieldCollection_; }
  char const* getPluginName() const noexcept override { return contract_.name; }
  char const* getPluginVersion() const noexcept override { return kVersion; }
  char const* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  OpContract const& contract_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection fieldCollection_{};
};

}  // namespace adaptrt
