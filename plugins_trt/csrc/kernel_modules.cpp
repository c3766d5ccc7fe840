#include "kernel_modules.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "report.h"

namespace adaptrt {
namespace {

// Without asking, a block may have this much dynamic shared memory.
constexpr unsigned kSharedWithoutAsking = 48 * 1024;

bool computes(Kernel const& kernel, char const* op, KernelTypes const& types) {
  if (std::strcmp(kernel.op, op) != 0) {
    return false;
  }
  for (KernelArgument const& argument : kernel.arguments) {
    if (argument.kind != ArgumentKind::kSize) {
      TensorRule const* const rule = types.contract.tensor(argument.name);
      if (rule == nullptr || elementType(rule->type, types.real) != argument.type) {
        return false;
      }
    }
  }
  return true;
}

bool meets(Kernel const& kernel, Sizes const& sizes) {
  return std::all_of(kernel.requirements.begin(), kernel.requirements.end(), [&](Requirement const& requirement) {
    int64_t const size = sizes.at(requirement.size);
    return size % requirement.multiple == 0 && size >= requirement.least;
  });
}

// For the message: what the sizes are and were to be. Of the last kernel, which asks least.
std::string requirementText(Kernel const& kernel, Sizes const& sizes) {
  std::string text;
  for (Requirement const& requirement : kernel.requirements) {
    text += (text.empty() ? "" : ", ") + std::string(requirement.size) + " = " +
            std::to_string(sizes.at(requirement.size)) + " (a multiple of " + std::to_string(requirement.multiple) +
            ", at least " + std::to_string(requirement.least) + ")";
  }
  return text;
}

class Modules {
 public:
  // Null where the image cannot be loaded into the current context; why says the driver's reason.
  cu::Function load(Kernel const& kernel, Image const& image, CudaDevice const& device, std::string& why) {
    std::pair<unsigned long long, Image const*> const key{device.key, &image};
    std::lock_guard<std::mutex> const lock(mutex_);
    auto const known = functions_.find(key);
    if (known != functions_.end()) {
      return known->second;
    }
    CudaDriver const& driver = CudaDriver::instance();
    cu::Module module = nullptr;
    cu::Result result = driver.moduleLoadData(&module, kImages + image.offset);
    if (result != cu::kSuccess) {
      why = driver.name(result);
      return nullptr;
    }
    cu::Function function = nullptr;
    result = driver.moduleGetFunction(&function, module, kernel.entry);
    if (result == cu::kSuccess && kernel.shared_bytes > kSharedWithoutAsking) {
      result = driver.funcSetAttribute(function, cu::kMostDynamicSharedMemory, static_cast<int>(kernel.shared_bytes));
    }
    // Drivers load functions at their first launch; that must not fall into a graph's capture.
    if (result == cu::kSuccess && driver.funcLoad != nullptr) {
      result = driver.funcLoad(function);
    }
    if (result != cu::kSuccess) {
      driver.moduleUnload(module);
      why = driver.name(result);
      return nullptr;
    }
    functions_.emplace(key, function);
    return function;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<unsigned long long, Image const*>, cu::Function> functions_;
};

Modules& modules() {
  // Never destroyed: at exit the driver may already be gone, and it frees its modules itself.
  static Modules* const kept = new Modules;
  return *kept;
}

LoadedKernel loadOn(Kernel const& kernel, CudaDevice const& device) {
  std::string why;
  std::string const what = std::string(kernel.op) + " for sm_" + std::to_string(kernel.arch);
  if (kernel.arch == device.arch) {
    if (cu::Function const function = modules().load(kernel, kernel.cubin, device, why)) {
      return {&kernel, function};
    }
    log(nvinfer1::ILogger::Severity::kWARNING,
        "the driver refused the cubin of " + what + " (" + why + "); compiling its PTX instead");
  }
  if (cu::Function const function = modules().load(kernel, kernel.ptx, device, why)) {
    return {&kernel, function};
  }
  throw Error(
      nvinfer1::ErrorCode::kFAILED_INITIALIZATION,
      "got " + why + " from the driver for the kernel of " + what + " on sm_" + std::to_string(device.arch) +
          ", expected it to load; update the driver or compile with make kernels ARCH=" + std::to_string(device.arch));
}

}  // namespace

bool haveKernels(char const* op, KernelTypes const& types) {
  return std::any_of(kKernels.begin(), kKernels.end(),
                     [&](Kernel const& kernel) { return computes(kernel, op, types); });
}

LoadedKernel loadKernel(char const* op, KernelTypes const& types, Sizes const& sizes, CudaDevice const& device) {
  std::set<int> architectures;  // that the library has for this op and type
  std::set<int, std::greater<int>> usable;
  for (Kernel const& kernel : kKernels) {
    if (computes(kernel, op, types)) {
      architectures.insert(kernel.arch);
      if (kernel.arch == device.arch || (kernel.arch < device.arch && kernel.ptx_runs_on_later)) {
        usable.insert(kernel.arch);
      }
    }
  }
  std::string const what = std::string(op) + " in " + typeName(types.real);
  if (usable.empty()) {
    std::string have;
    for (int const arch : architectures) {
      have += (have.empty() ? "sm_" : ", sm_") + std::to_string(arch);
    }
    throw Error(nvinfer1::ErrorCode::kUNSUPPORTED_STATE,
                "got a device of sm_" + std::to_string(device.arch) + ", expected one that a kernel of " + what +
                    " runs on (" + (have.empty() ? "there is none" : have) +
                    "); make kernels ARCH=" + std::to_string(device.arch) + " and build the plugin again");
  }
  Kernel const* unmet = nullptr;
  Kernel const* tooLarge = nullptr;
  for (int const arch : usable) {
    for (Kernel const& kernel : kKernels) {
      if (kernel.arch != arch || !computes(kernel, op, types)) {
        continue;
      }
      if (!meets(kernel, sizes)) {
        unmet = &kernel;
      } else if (kernel.shared_bytes > device.sharedBytes) {
        tooLarge = &kernel;
      } else {
        return loadOn(kernel, device);
      }
    }
  }
  if (tooLarge != nullptr) {
    throw Error(nvinfer1::ErrorCode::kUNSUPPORTED_STATE, "got a device with " + std::to_string(device.sharedBytes) +
                                                             " bytes of shared memory per block, expected " +
                                                             std::to_string(tooLarge->shared_bytes) + " for " + what +
                                                             " compiled for sm_" + std::to_string(tooLarge->arch) +
                                                             "; make kernels ARCH=" + std::to_string(device.arch));
  }
  throw invalidArgument("got sizes that no kernel of " + what + " takes: expected " + requirementText(*unmet, sizes) +
                        "; pad them or leave this op to its portable body");
}

}  // namespace adaptrt
