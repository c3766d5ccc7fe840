// Which kernel runs on a device, and the modules loaded for it, one per CUDA context, kept until the process ends.
#pragma once

#include <string>
#include <vector>

#include "cuda_driver.h"
#include "kernel_table.h"
#include "op_contract.h"

namespace adaptrt {

struct LoadedKernel {
  Kernel const* kernel;
  cu::Function function;
};

// What a kernel's pointers must point to.
struct KernelTypes {
  OpContract const& contract;
  ElementType real;
};

// Whether any architecture's kernels compute the op with this type.
bool haveKernels(char const* op, KernelTypes const& types);

// Takes the kernel of the device's own architecture, its cubin before its PTX; else the PTX of the highest
// architecture below it that may be compiled for later ones; of those the first whose requirements the sizes meet
// and whose shared memory the device has. Loads it into the current context. Throws Error where there is none.
LoadedKernel loadKernel(char const* op, KernelTypes const& types, Sizes const& sizes, CudaDevice const& device);

}  // namespace adaptrt
