// The TensorRT library of the process that loaded us, found without linking to it.
#pragma once

#include <string>

#include <NvInferRuntime.h>

namespace adaptrt {

class TensorrtLibrary {
 public:
  TensorrtLibrary() noexcept;

  // Whether one is loaded whose interfaces are laid out as this library was compiled for.
  bool usable() const noexcept { return registry_ != nullptr; }

  // Says, in one line, why the loaded one cannot be used; empty where it can, or none is loaded.
  std::string const& mismatch() const noexcept { return mismatch_; }

  // The process-wide plugin registry; null unless usable.
  nvinfer1::IPluginRegistry* registry() const noexcept { return registry_ == nullptr ? nullptr : registry_(); }

  // The logger of the process; null unless usable and set.
  nvinfer1::ILogger* logger() const noexcept { return logger_ == nullptr ? nullptr : logger_(); }

 private:
  nvinfer1::IPluginRegistry* (*registry_)() noexcept = nullptr;
  nvinfer1::ILogger* (*logger_)() noexcept = nullptr;
  std::string mismatch_;
};

// Looked up anew at each call while none is usable: a process may load TensorRT after this library.
TensorrtLibrary tensorrtLibrary() noexcept;

}  // namespace adaptrt
