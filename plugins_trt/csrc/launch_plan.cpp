#include "launch_plan.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>

#include "report.h"

namespace adaptrt {
namespace {

// What a kernel with requirements asks of pointers, too: it loads 16 bytes at once.
constexpr uintptr_t kPointerAlignment = 16;
constexpr size_t kMostArguments = 24;
constexpr std::array<int64_t, 3> kMostBlocks{2147483647, 65535, 65535};

}  // namespace

WorkspaceLayout::WorkspaceLayout(OpContract const& contract, Sizes const& sizes, ElementType real) {
  for (TensorRule const& rule : contract.scratch) {
    int64_t elements = 1;
    for (AxisRule const& axis : rule.axes) {
      int64_t const extent = sizes.of(axis);
      if (extent != 0 && elements > std::numeric_limits<int64_t>::max() / 8 / extent) {
        throw invalidArgument(std::string("got sizes for which ") + rule.name + " has more than 2^60 elements");
      }
      elements *= extent;
    }
    offsets_.push_back(place(static_cast<size_t>(elements) * elementBytes(elementType(rule.type, real))));
  }
}

size_t WorkspaceLayout::place(size_t bytes) {
  size_t const at = bytes_;
  bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return at;
}

char* WorkspaceLayout::aligned(void* workspace) {
  uintptr_t const address = reinterpret_cast<uintptr_t>(workspace);
  return static_cast<char*>(workspace) + (kAlignment - address % kAlignment) % kAlignment;
}

LaunchPlan::LaunchPlan(OpContract const& contract, Sizes const& attributes, std::vector<nvinfer1::Dims> const& tensors,
                       ElementType real)
    : contract_(contract),
      tensors_(tensors),
      sizes_(bindSizes(contract, attributes, tensors, true)),
      layout_(contract, sizes_, real) {
  CudaDevice const device = currentDevice();
  for (char const* const op : contract.kernels) {
    launches_.push_back(prepare(op, {contract, real}, device));
  }
}

LaunchPlan::Launch LaunchPlan::prepare(char const* op, KernelTypes const& types, CudaDevice const& device) const {
  Launch launch{loadKernel(op, types, sizes_, device), {1, 1, 1}, false, {}};
  Kernel const& kernel = *launch.loaded.kernel;
  launch.aligned = std::any_of(kernel.requirements.begin(), kernel.requirements.end(),
                               [](Requirement const& requirement) { return requirement.multiple > 1; });
  for (size_t axis = 0; axis < kMostBlocks.size(); ++axis) {
    int64_t extent = 1;
    for (GridFactor const& factor : kernel.grid[axis]) {
      int64_t const size = sizes_.at(factor.size);
      int64_t const blocks = size / factor.per + (size % factor.per != 0 ? 1 : 0);
      // Both are below 2^31: their product cannot overflow, and is checked before it grows.
      extent *= blocks;
      if (extent > kMostBlocks[axis]) {
        throw invalidArgument(std::string("got sizes for which ") + op + " needs " + std::to_string(extent) +
                              " blocks along grid axis " + std::to_string(axis) + ", expected at most " +
                              std::to_string(kMostBlocks[axis]) + "; run a smaller batch");
      }
    }
    launch.grid[axis] = static_cast<unsigned>(extent);
  }
  for (KernelArgument const& argument : kernel.arguments) {
    launch.sources.push_back(source(argument));
  }
  if (launch.sources.size() > kMostArguments) {
    throw invalidArgument(std::string("got a kernel of ") + op + " with more than 24 arguments; make kernels again");
  }
  return launch;
}

LaunchPlan::Source LaunchPlan::source(KernelArgument const& argument) const {
  if (argument.kind == ArgumentKind::kSize) {
    return {Place::kValue, 0, static_cast<int32_t>(sizes_.at(argument.name)), argument.name};
  }
  auto const find = [&](std::vector<TensorRule> const& rules, size_t& index) {
    for (index = 0; index < rules.size(); ++index) {
      if (std::strcmp(rules[index].name, argument.name) == 0) {
        return true;
      }
    }
    return false;
  };
  size_t index = 0;
  if (find(contract_.scratch, index)) {
    return {Place::kWorkspace, layout_.offset(index), 0, argument.name};
  }
  bool const isInput = argument.kind == ArgumentKind::kInput;
  if (find(isInput ? contract_.inputs : contract_.outputs, index)) {
    return {isInput ? Place::kInput : Place::kOutput, index, 0, argument.name};
  }
  throw invalidArgument(std::string("got a kernel that asks for ") + argument.name + " as an " +
                        (isInput ? "input" : "output") + ", which " + contract_.name + " has not; make kernels again");
}

bool LaunchPlan::isFor(nvinfer1::PluginTensorDesc const* inputs,
                       nvinfer1::PluginTensorDesc const* outputs) const noexcept {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    bool const isInput = i < contract_.inputs.size();
    nvinfer1::Dims const& dims = isInput ? inputs[i].dims : outputs[i - contract_.inputs.size()].dims;
    if (dims.nbDims != tensors_[i].nbDims || !std::equal(dims.d, dims.d + dims.nbDims, tensors_[i].d)) {
      return false;
    }
  }
  return true;
}

void LaunchPlan::enqueue(void const* const* inputs, void* const* outputs, void* workspace, cu::Stream stream) const {
  CudaDriver const& driver = CudaDriver::instance();
  bool const needsWorkspace = layout_.bytesToAsk() != 0;
  if (needsWorkspace && workspace == nullptr) {
    throw invalidArgument("got no workspace, expected " + std::to_string(layout_.bytesToAsk()) + " bytes");
  }
  char* const scratch = needsWorkspace ? WorkspaceLayout::aligned(workspace) : nullptr;
  for (Launch const& launch : launches_) {
    if (launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0) {
      continue;
    }
    std::array<void const*, kMostArguments> pointers;
    std::array<int32_t, kMostArguments> values;
    std::array<void*, kMostArguments> parameters;
    for (size_t i = 0; i < launch.sources.size(); ++i) {
      Source const& source = launch.sources[i];
      if (source.place == Place::kValue) {
        values[i] = source.value;
        parameters[i] = &values[i];
        continue;
      }
      pointers[i] = source.place == Place::kInput    ? inputs[source.index]
                    : source.place == Place::kOutput ? outputs[source.index]
                                                     : scratch + source.index;
      if (launch.aligned && reinterpret_cast<uintptr_t>(pointers[i]) % kPointerAlignment != 0) {
        throw invalidArgument(std::string("got ") + source.name +
                              " at an address that is no multiple of 16, expected one as allocators give it");
      }
      parameters[i] = &pointers[i];
    }
    Kernel const& kernel = *launch.loaded.kernel;
    driver.check(driver.launchKernel(launch.loaded.function, launch.grid[0], launch.grid[1], launch.grid[2],
                                     kernel.threads, 1, 1, kernel.shared_bytes, stream, parameters.data(), nullptr),
                 std::string("launching ") + kernel.entry);
  }
}

}  // namespace adaptrt
