#include "tensorrt_library.h"

#include <dlfcn.h>

#include <mutex>
#include <optional>

namespace adaptrt {
namespace {

// Majors other than our own are looked for only to say which one is there.
constexpr int kOldestMajor = 8;
constexpr int kNewestMajor = 20;

// The full library and the two that run engines only; each has its registry and logger.
constexpr char const* kNames[] = {"libnvinfer.so.", "libnvinfer_lean.so.", "libnvinfer_dispatch.so."};

void* alreadyLoaded(int major) {
  for (char const* const name : kNames) {
    std::string const file = name + std::to_string(major);
    if (void* const handle = dlopen(file.c_str(), RTLD_LAZY | RTLD_NOLOAD)) {
      return handle;
    }
  }
  return nullptr;
}

// Our own major first: a process may hold two.
void* anyLoaded() {
  if (void* const handle = alreadyLoaded(NV_TENSORRT_MAJOR)) {
    return handle;
  }
  if (dlsym(RTLD_DEFAULT, "getInferLibVersion") != nullptr) {
    return RTLD_DEFAULT;
  }
  for (int major = kNewestMajor; major >= kOldestMajor; --major) {
    if (void* const handle = alreadyLoaded(major)) {
      return handle;
    }
  }
  return nullptr;
}

template <typename Function>
void look(Function& function, void* handle, char const* name) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
}

// Versions are major * 10000 + minor * 100 + patch since 10.0, major * 1000 + ... before.
int majorOf(int32_t version) { return version >= 10000 ? version / 10000 : version / 1000; }

}  // namespace

TensorrtLibrary::TensorrtLibrary() noexcept {
  try {
    void* const handle = anyLoaded();
    // RTLD_DEFAULT is a null pointer: where nothing is loaded this finds nothing either.
    int32_t (*version)() noexcept = nullptr;
    look(version, handle, "getInferLibVersion");
    if (version == nullptr) {
      return;
    }
    int const major = majorOf(version());
    if (major != NV_TENSORRT_MAJOR) {
      mismatch_ = "got TensorRT " + std::to_string(major) + " in this process, expected " +
                  std::to_string(NV_TENSORRT_MAJOR) +
                  ", for which libadaptrt_trt.so was built; build it with that version's headers";
      return;
    }
    look(logger_, handle, "getLogger");
    look(registry_, handle, "getPluginRegistry");
  } catch (...) {
    registry_ = nullptr;
    logger_ = nullptr;
  }
}

TensorrtLibrary tensorrtLibrary() noexcept {
  static std::mutex mutex;
  static std::optional<TensorrtLibrary> found;
  std::lock_guard<std::mutex> const lock(mutex);
  if (!found || !found->usable()) {
    found.emplace();
  }
  return *found;
}

}  // namespace adaptrt
