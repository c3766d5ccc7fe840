#include "op_plugin.h"

#include <algorithm>
#include <cstring>

#include "report.h"

namespace adaptrt {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

namespace {

constexpr int32_t kSuccess = 0;
constexpr int32_t kFailure = -1;
constexpr ElementType kRealTypes[] = {ElementType::kFloat32, ElementType::kFloat16, ElementType::kBFloat16};

template <typename Desc, typename Take>
std::vector<Dims> dimsOf(Desc const* inputs, int32_t inputCount, Desc const* outputs, int32_t outputCount,
                         Take const& take) {
  std::vector<Dims> dims;
  for (int32_t i = 0; i < inputCount + outputCount; ++i) {
    dims.push_back(take(i < inputCount ? inputs[i] : outputs[i - inputCount]));
  }
  return dims;
}

}  // namespace

OpPlugin::OpPlugin(OpContract const& contract, Sizes attributes)
    : contract_(contract), attributes_(std::move(attributes)), version_(contract.version) {}

// A clone starts without launches: TensorRT announces shapes to each plugin anew, perhaps in another context.
OpPlugin::OpPlugin(OpPlugin const& other)
    : contract_(other.contract_),
      attributes_(other.attributes_),
      recorder_(other.recorder_),
      version_(other.version_) {}

nvinfer1::IPluginCapability* OpPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* OpPlugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(recorder_, contract_.name, nullptr, [&] { return new OpPlugin(*this); });
}

TensorRule const& OpPlugin::rule(int32_t position) const {
  size_t const at = static_cast<size_t>(position);
  size_t const inputs = contract_.inputs.size();
  return at < inputs ? contract_.inputs[at] : contract_.outputs.at(at - inputs);
}

void OpPlugin::expectCounts(int32_t inputCount, int32_t outputCount) const {
  if (inputCount != static_cast<int32_t>(contract_.inputs.size()) || outputCount != getNbOutputs()) {
    throw invalidArgument("got " + std::to_string(inputCount) + " inputs and " + std::to_string(outputCount) +
                          " outputs, expected " + std::to_string(contract_.inputs.size()) + " and " +
                          std::to_string(contract_.outputs.size()));
  }
}

ElementType OpPlugin::realType(DataType const* inputs) const {
  ElementType real = ElementType::kFloat32;
  bool found = false;
  for (size_t i = 0; i < contract_.inputs.size(); ++i) {
    TensorRule const& rule = contract_.inputs[i];
    ElementType type{};
    bool const known = elementTypeOf(inputs[i], type);
    if (rule.type == TypeRule::kReal && !found) {
      found = known && std::find(std::begin(kRealTypes), std::end(kRealTypes), type) != std::end(kRealTypes);
      if (!found) {
        throw invalidArgument(std::string(rule.name) + " has data type " +
                              std::to_string(static_cast<int32_t>(inputs[i])) +
                              ", expected float32, float16 or bfloat16");
      }
      real = type;
    }
    if (!known || type != elementType(rule.type, real)) {
      throw invalidArgument(std::string(rule.name) + " is " +
                            (known ? typeName(type) : std::to_string(static_cast<int32_t>(inputs[i]))) + ", expected " +
                            typeName(elementType(rule.type, real)) +
                            (rule.type == TypeRule::kReal ? " as the inputs before it" : ""));
    }
  }
  return real;
}

bool OpPlugin::supportsReal(ElementType real) const {
  return std::all_of(contract_.kernels.begin(), contract_.kernels.end(),
                     [&](char const* op) { return haveKernels(op, {contract_, real}); });
}

void OpPlugin::expectKernels() const {
  if (std::none_of(std::begin(kRealTypes), std::end(kRealTypes),
                   [&](ElementType real) { return supportsReal(real); })) {
    throw Error(nvinfer1::ErrorCode::kUNSUPPORTED_STATE,
                std::string("got no kernel of ") + contract_.name +
                    " in this library, expected some; make kernels and build the plugin again");
  }
}

int32_t OpPlugin::configurePlugin(DynamicPluginTensorDesc const* inputs, int32_t inputCount,
                                  DynamicPluginTensorDesc const* outputs, int32_t outputCount) noexcept {
  return guarded(recorder_, contract_.name, kFailure, [&] {
    expectCounts(inputCount, outputCount);
    // The largest shapes must fit together; the others are checked when they come.
    auto const most = [](DynamicPluginTensorDesc const& desc) { return desc.max; };
    bindSizes(contract_, attributes_, dimsOf(inputs, inputCount, outputs, 0, most), false);
    return kSuccess;
  });
}

int32_t OpPlugin::getOutputDataTypes(DataType* outputs, int32_t outputCount, DataType const* inputs,
                                     int32_t inputCount) const noexcept {
  return guarded(recorder_, contract_.name, kFailure, [&] {
    expectCounts(inputCount, outputCount);
    ElementType const real = realType(inputs);
    for (int32_t i = 0; i < outputCount; ++i) {
      outputs[i] = dataType(elementType(rule(inputCount + i).type, real));
    }
    return kSuccess;
  });
}

int32_t OpPlugin::getOutputShapes(DimsExprs const* inputs, int32_t inputCount, DimsExprs const* /*shapes*/,
                                  int32_t shapeCount, DimsExprs* outputs, int32_t outputCount,
                                  nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(recorder_, contract_.name, kFailure, [&] {
    expectCounts(inputCount, outputCount);
    if (shapeCount != 0) {
      throw invalidArgument("got " + std::to_string(shapeCount) + " shape tensors, expected none");
    }
    std::vector<std::pair<std::string, nvinfer1::IDimensionExpr const*>> known;
    auto const find = [&](std::string const& name) -> nvinfer1::IDimensionExpr const* {
      for (auto const& [size, expression] : known) {
        if (size == name) {
          return expression;
        }
      }
      return nullptr;
    };
    for (auto const& [name, value] : attributes_.all()) {
      known.emplace_back(name, builder.constant(value));
    }
    for (int32_t i = 0; i < inputCount; ++i) {
      TensorRule const& tensor = rule(i);
      if (inputs[i].nbDims != static_cast<int32_t>(tensor.axes.size())) {
        throw invalidArgument(std::string(tensor.name) + " has " + std::to_string(inputs[i].nbDims) +
                              " axes, expected " + std::to_string(tensor.axes.size()));
      }
      for (size_t axis = 0; axis < tensor.axes.size(); ++axis) {
        if (tensor.axes[axis].size() == 1 && find(tensor.axes[axis][0]) == nullptr) {
          known.emplace_back(tensor.axes[axis][0], inputs[i].d[axis]);
        }
      }
    }
    for (int32_t i = 0; i < outputCount; ++i) {
      TensorRule const& tensor = rule(inputCount + i);
      outputs[i].nbDims = static_cast<int32_t>(tensor.axes.size());
      for (size_t axis = 0; axis < tensor.axes.size(); ++axis) {
        nvinfer1::IDimensionExpr const* product = nullptr;
        for (char const* const name : tensor.axes[axis]) {
          nvinfer1::IDimensionExpr const* const factor = find(name);
          product =
              product == nullptr ? factor : builder.operation(nvinfer1::DimensionOperation::kPROD, *product, *factor);
        }
        if (product == nullptr) {
          throw Error(nvinfer1::ErrorCode::kINTERNAL_ERROR, std::string("no expression for an axis of ") + tensor.name);
        }
        outputs[i].d[axis] = product;
      }
    }
    return kSuccess;
  });
}

bool OpPlugin::supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const* tensors, int32_t inputCount,
                                         int32_t outputCount) noexcept {
  return guarded(recorder_, contract_.name, false, [&] {
    expectCounts(inputCount, outputCount);
    if (position < 0 || position >= inputCount + outputCount) {
      throw invalidArgument("got tensor " + std::to_string(position) + ", expected 0 to " +
                            std::to_string(inputCount + outputCount - 1));
    }
    ElementType type{};
    PluginTensorDesc const& desc = tensors[position].desc;
    if (desc.format != nvinfer1::TensorFormat::kLINEAR || !elementTypeOf(desc.type, type)) {
      return false;
    }
    TensorRule const& wanted = rule(position);
    if (wanted.type != TypeRule::kReal) {
      return type == elementType(wanted.type, ElementType::kFloat32);
    }
    // What stands behind position is not decided yet.
    for (int32_t earlier = 0; earlier < position; ++earlier) {
      if (rule(earlier).type == TypeRule::kReal) {
        return desc.type == tensors[earlier].desc.type;
      }
    }
    return std::find(std::begin(kRealTypes), std::end(kRealTypes), type) != std::end(kRealTypes) && supportsReal(type);
  });
}

size_t OpPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t inputCount,
                                  DynamicPluginTensorDesc const* outputs, int32_t outputCount) const noexcept {
  return guarded(recorder_, contract_.name, size_t{0}, [&] {
    expectCounts(inputCount, outputCount);
    std::vector<DataType> types;
    for (int32_t i = 0; i < inputCount; ++i) {
      types.push_back(inputs[i].desc.type);
    }
    auto const most = [](DynamicPluginTensorDesc const& desc) { return desc.max; };
    Sizes const sizes = bindSizes(contract_, attributes_, dimsOf(inputs, inputCount, outputs, 0, most), false);
    return WorkspaceLayout(contract_, sizes, realType(types.data())).bytesToAsk();
  });
}

int32_t OpPlugin::onShapeChange(PluginTensorDesc const* inputs, int32_t inputCount, PluginTensorDesc const* outputs,
                                int32_t outputCount) noexcept {
  return guarded(recorder_, contract_.name, kFailure, [&] {
    plan_.reset();
    expectCounts(inputCount, outputCount);
    std::vector<DataType> types;
    for (int32_t i = 0; i < inputCount; ++i) {
      types.push_back(inputs[i].type);
    }
    auto const dims = [](PluginTensorDesc const& desc) { return desc.dims; };
    plan_ = std::make_unique<LaunchPlan>(contract_, attributes_, dimsOf(inputs, inputCount, outputs, outputCount, dims),
                                         realType(types.data()));
    return kSuccess;
  });
}

int32_t OpPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
                          void const* const* inputs, void* const* outputs, void* workspace,
                          cudaStream_t stream) noexcept {
  return guarded(recorder_, contract_.name, kFailure, [&] {
    if (plan_ == nullptr || !plan_->isFor(inputDesc, outputDesc)) {
      throw Error(nvinfer1::ErrorCode::kINVALID_STATE, "got shapes that onShapeChange did not announce or refused");
    }
    plan_->enqueue(inputs, outputs, workspace, stream);
    return kSuccess;
  });
}

nvinfer1::IPluginV3* OpPlugin::attachToContext(nvinfer1::IPluginResourceContext* context) noexcept {
  return guarded<nvinfer1::IPluginV3*>(recorder_, contract_.name, nullptr, [&] {
    auto attached = std::make_unique<OpPlugin>(*this);
    attached->recorder_ = context == nullptr ? nullptr : context->getErrorRecorder();
    return attached.release();
  });
}

PluginFieldCollection const* OpPlugin::getFieldsToSerialize() noexcept {
  return guarded<PluginFieldCollection const*>(recorder_, contract_.name, nullptr, [&] {
    fields_.clear();
    numbers_.clear();
    numbers_.reserve(contract_.attributes.size());
    fields_.emplace_back(kOpVersion, &version_, PluginFieldType::kINT32, 1);
    for (AttributeRule const& attribute : contract_.attributes) {
      int64_t const value = attributes_.at(attribute.size);
      if (attribute.isText()) {
        auto const word = std::find_if(attribute.words.begin(), attribute.words.end(),
                                       [&](Word const& known) { return known.value == value; });
        auto const length = static_cast<int32_t>(std::strlen(word->text));
        fields_.emplace_back(attribute.name, word->text, PluginFieldType::kCHAR, length);
      } else {
        numbers_.push_back(static_cast<int32_t>(value));
        fields_.emplace_back(attribute.name, &numbers_.back(), PluginFieldType::kINT32, 1);
      }
    }
    fieldCollection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return &fieldCollection_;
  });
}

OpCreator::OpCreator(OpContract const& contract) : contract_(contract) {
  for (AttributeRule const& attribute : contract.attributes) {
    PluginFieldType const type = attribute.isText() ? PluginFieldType::kCHAR : PluginFieldType::kINT32;
    fields_.emplace_back(attribute.name, nullptr, type, attribute.isText() ? 0 : 1);
  }
  fieldCollection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginV3* OpCreator::createPlugin(char const* name, PluginFieldCollection const* fields,
                                             nvinfer1::TensorRTPhase /*phase*/) noexcept {
  return guarded<nvinfer1::IPluginV3*>(nullptr, contract_.name, nullptr, [&]() -> nvinfer1::IPluginV3* {
    try {
      auto plugin = std::make_unique<OpPlugin>(contract_, readAttributes(contract_, fields));
      plugin->expectKernels();
      return plugin.release();
    } catch (Error const& error) {
      std::string const node = name == nullptr || *name == '\0' ? "" : std::string("node ") + name + ": ";
      throw Error(error.code(), node + error.what());
    }
  });
}

}  // namespace adaptrt
