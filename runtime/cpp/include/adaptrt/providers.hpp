// Execution providers of ONNX Runtime: what runs the graphs instead of its CPU kernels, such as TensorRT.
#pragma once

#include <cctype>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adaptrt/onnxruntime_library.hpp"

namespace adaptrt {

// A provider, and its options in ONNX Runtime's words.
struct Provider {
  std::string name;  // as ONNX Runtime lists it: "TensorrtExecutionProvider"
  std::vector<std::pair<std::string, std::string>>
      options;  // such as "trt_extra_plugin_lib_paths", "trt_engine_cache_enable"
};

using Providers = std::vector<Provider>;

inline constexpr const char* cpu_provider = "CPUExecutionProvider";

// The names of those that a library was built with.
inline std::vector<std::string> available_providers(const OnnxRuntimeLibrary& library) {
  char** names = nullptr;
  int count = 0;
  library.check(library.api().GetAvailableProviders(&names, &count), "list its providers");
  const std::vector<std::string> all(names, names + count);
  OrtStatus* status = library.api().ReleaseAvailableProviders(names, count);
  if (status) library.api().ReleaseStatus(status);
  return all;
}

// Throws `Failure` where one is not in the library.
inline void check_providers(const OnnxRuntimeLibrary& library, const Providers& providers) {
  if (providers.empty()) return;
  const std::vector<std::string> available = available_providers(library);
  std::string expected;
  for (const std::string& name : available) expected += (expected.empty() ? "" : ", ") + text::quoted(name);
  for (const Provider& provider : providers) {
    bool there = false;
    for (const std::string& name : available) there = there || name == provider.name;
    if (there) continue;
    throw Failure(ErrorKind::backend, "provider " + text::quoted(provider.name) +
                                          " is not in this onnxruntime, expected some of " + expected +
                                          "; give a library that has it, or name one of these");
  }
}

// The names, as they are listed; the CPU's where there are none.
inline std::string names_of(const Providers& providers) {
  std::string names;
  for (const Provider& provider : providers) names += (names.empty() ? "" : ",") + provider.name;
  return names.empty() ? cpu_provider : names;
}

namespace detail {

// Options of a provider that has functions of its own for them, made, filled, handed over and released.
template <class Options, class Create, class Update, class Append, class Release>
OrtStatus* append_own(Create create, Update update, Append append, Release release, OrtSessionOptions* session,
                      const std::vector<const char*>& keys, const std::vector<const char*>& values) {
  Options* made = nullptr;
  OrtStatus* status = create(&made);
  if (status) return status;
  const std::unique_ptr<Options, Release> held(made, release);
  status = update(made, keys.data(), values.data(), keys.size());
  return status ? status : append(session, made);
}

// By the name without its ending, as ONNX Runtime's general function takes it: some in capital letters.
inline OrtStatus* append_general(const OrtApi& api, OrtSessionOptions* session, const std::string& name,
                                 const std::vector<const char*>& keys, const std::vector<const char*>& values) {
  std::string shorter = name.substr(0, name.rfind("ExecutionProvider"));
  const auto append = [&] {
    return api.SessionOptionsAppendExecutionProvider(session, shorter.c_str(), keys.data(), values.data(), keys.size());
  };
  OrtStatus* status = append();
  if (!status) return nullptr;
  for (char& letter : shorter) letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  OrtStatus* again = append();
  api.ReleaseStatus(again ? again : status);
  return again ? status : nullptr;
}

}  // namespace detail

// Add providers to a session's options, in order of preference. Throws `Failure` where one does not start: ONNX
// Runtime's silent way back to the CPU is not taken.
inline void append_providers(const OnnxRuntimeLibrary& library, OrtSessionOptions* session,
                             const Providers& providers) {
  const OrtApi& api = library.api();
  for (const Provider& provider : providers) {
    if (provider.name == cpu_provider) continue;  // ONNX Runtime adds it by itself, as the last
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : provider.options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    OrtStatus* status = nullptr;
    if (provider.name == "TensorrtExecutionProvider") {
      status = detail::append_own<OrtTensorRTProviderOptionsV2>(
          api.CreateTensorRTProviderOptions, api.UpdateTensorRTProviderOptions,
          api.SessionOptionsAppendExecutionProvider_TensorRT_V2, api.ReleaseTensorRTProviderOptions, session, keys,
          values);
    } else if (provider.name == "CUDAExecutionProvider") {
      status = detail::append_own<OrtCUDAProviderOptionsV2>(
          api.CreateCUDAProviderOptions, api.UpdateCUDAProviderOptions,
          api.SessionOptionsAppendExecutionProvider_CUDA_V2, api.ReleaseCUDAProviderOptions, session, keys, values);
    } else {
      status = detail::append_general(api, session, provider.name, keys, values);
    }
    if (!status) continue;
    throw Failure(ErrorKind::backend, "provider " + text::quoted(provider.name) + " did not start (" +
                                          library.text_of(status) +
                                          "); check its options, the driver and its libraries, or leave it out");
  }
}

}  // namespace adaptrt
