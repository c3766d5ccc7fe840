// ONNX Runtime, opened when it is needed: any library from 1.21 on, none linked.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "adaptrt/expected.hpp"
#include "adaptrt/message_text.hpp"
#include "onnxruntime/onnxruntime_c_api.h"

namespace adaptrt {

// The functions of one library, and its environment. Lives as long as the process: what ONNX Runtime ends when a
// process ends depends on the order in which that happens.
class OnnxRuntimeLibrary {
 public:
  // The library at a path. An empty one is `$ADAPTRT_ONNXRUNTIME`, or else what the system finds as
  // `libonnxruntime.so.1` or `libonnxruntime.so`. One for each path; throws `Failure`.
  static OnnxRuntimeLibrary& open(const std::string& path) {
    static std::mutex mutex;
    static auto& opened = *new std::map<std::string, OnnxRuntimeLibrary*>;
    const std::lock_guard<std::mutex> lock(mutex);
    const char* named = std::getenv("ADAPTRT_ONNXRUNTIME");
    const std::string wanted = !path.empty() ? path : named ? named : "";
    OnnxRuntimeLibrary*& library = opened[wanted];
    if (!library) library = new OnnxRuntimeLibrary(wanted);
    return *library;
  }

  const OrtApi& api() const { return *api_; }
  OrtEnv* environment() const { return environment_; }
  const std::string& version() const { return version_; }

  // The text of a status, which is released; null is no error.
  std::string text_of(OrtStatus* status) const {
    std::string message = text::one_line(api_->GetErrorMessage(status));
    api_->ReleaseStatus(status);
    return message;
  }

  // Throw what a status says, if it says anything.
  void check(OrtStatus* status, const char* what) const {
    if (!status) return;
    throw Failure(ErrorKind::backend, std::string("onnxruntime ") + version_ + " failed to " + what + " (" +
                                          text_of(status) + "); install another onnxruntime");
  }

  // Make one arena for the sessions that run in turn, so that one's tensors go where the other's were.
  bool shares_memory() {
    std::call_once(arena_once_, [this] {
      OrtMemoryInfo* info = nullptr;
      OrtStatus* status = api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info);
      if (!status) status = api_->CreateAndRegisterAllocator(environment_, info, nullptr);
      has_arena_ = !status;
      if (status) api_->ReleaseStatus(status);  // some builds have no arenas
      if (info) api_->ReleaseMemoryInfo(info);
    });
    return has_arena_;
  }

 private:
  explicit OnnxRuntimeLibrary(const std::string& path) {
    // From 1.29 on the library collects and sends usage data unless it finds this when it is loaded.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    void* handle = nullptr;
    std::string problem;
    const std::string names[] = {path, "libonnxruntime.so.1", "libonnxruntime.so"};
    for (size_t i = path.empty() ? 1 : 0; i < (path.empty() ? 3u : 1u) && !handle; ++i) {
      handle = dlopen(names[i].c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!handle && problem.empty()) problem = text::one_line(dlerror());
    }
    const std::string remedy =
        "expected the library of ONNX Runtime 1.21 or newer; give its path as Options::library or in "
        "$ADAPTRT_ONNXRUNTIME";
    if (!handle) throw Failure(ErrorKind::backend, "onnxruntime cannot be opened (" + problem + "), " + remedy);
    using GetBase = const OrtApiBase* (*)();
    const auto base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
    if (!base) throw Failure(ErrorKind::backend, "got " + text::quoted(path) + " without OrtGetApiBase, " + remedy);
    version_ = base()->GetVersionString();
    // Older libraries print a line and give nothing; what is printed cannot be prevented.
    api_ = base()->GetApi(ORT_API_VERSION);
    if (!api_) throw Failure(ErrorKind::backend, "got onnxruntime " + version_ + ", " + remedy);
    // What ONNX Runtime would print below fatal comes as an error as well.
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "adaptrt", &environment_), "start");
    OrtStatus* status = api_->DisableTelemetryEvents(environment_);
    if (status) api_->ReleaseStatus(status);
  }

  const OrtApi* api_ = nullptr;
  OrtEnv* environment_ = nullptr;
  std::string version_;
  std::once_flag arena_once_;
  bool has_arena_ = false;
};

}  // namespace adaptrt
