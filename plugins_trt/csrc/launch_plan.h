// From sizes to launches: all that can be done before a stream is there, so that enqueue only fills in pointers.
#pragma once

#include <cstddef>
#include <vector>

#include "kernel_modules.h"
#include "op_contract.h"

namespace adaptrt {

// Where the tensors between an op's kernels lie in the workspace, and how long it is.
class WorkspaceLayout {
 public:
  WorkspaceLayout(OpContract const& contract, Sizes const& sizes, ElementType real);

  // To ask of TensorRT: the length, and what aligning its beginning may cost.
  size_t bytesToAsk() const noexcept { return bytes_ == 0 ? 0 : bytes_ + kAlignment; }
  size_t offset(size_t scratch) const { return offsets_[scratch]; }

  // The first aligned address at or behind the workspace.
  static char* aligned(void* workspace);

  static constexpr size_t kAlignment = 256;

 private:
  size_t place(size_t bytes);
  std::vector<size_t> offsets_;
  size_t bytes_ = 0;
};

class LaunchPlan {
 public:
  // Chooses and loads the kernels for the current context. Throws Error.
  LaunchPlan(OpContract const& contract, Sizes const& attributes, std::vector<nvinfer1::Dims> const& tensors,
             ElementType real);

  // Neither allocates nor waits: may be captured into a CUDA graph. Throws Error.
  void enqueue(void const* const* inputs, void* const* outputs, void* workspace, cu::Stream stream) const;

  // Whether the plan is for these dims, inputs before outputs.
  bool isFor(nvinfer1::PluginTensorDesc const* inputs, nvinfer1::PluginTensorDesc const* outputs) const noexcept;

 private:
  enum class Place { kInput, kOutput, kWorkspace, kValue };

  struct Source {
    Place place;
    size_t index;   // of the input or output; offset in the workspace
    int32_t value;  // of a size
    char const* name;
  };

  struct Launch {
    LoadedKernel loaded;
    unsigned grid[3];
    bool aligned;
    std::vector<Source> sources;
  };

  Launch prepare(char const* op, KernelTypes const& types, CudaDevice const& device) const;
  Source source(KernelArgument const& argument) const;

  OpContract const& contract_;
  std::vector<nvinfer1::Dims> tensors_;
  Sizes sizes_;
  WorkspaceLayout layout_;
  std::vector<Launch> launches_;
};

}  // namespace adaptrt
