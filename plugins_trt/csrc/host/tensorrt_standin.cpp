// Stands in for libnvinfer: a plugin registry and a logger. As NVIDIA documents it, loadLibrary fails where a creator
// is registered already; as we assume it, the registry must not be called while it loads a library.
#include <dlfcn.h>

#include <NvInferRuntime.h>

#include <cstring>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using nvinfer1::AsciiChar;
using nvinfer1::IPluginCreatorInterface;

class Registry final : public nvinfer1::IPluginRegistry, public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* logger = nullptr;

  nvinfer1::ILogger* findLogger() override { return logger; }

  void setErrorRecorder(nvinfer1::IErrorRecorder* recorder) noexcept override { recorder_ = recorder; }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return recorder_; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool /*enabled*/) override {}

  PluginLibraryHandle loadLibrary(AsciiChar const* path) noexcept override {
    loading_ = true;
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    loading_ = false;
    if (library == nullptr) {
      return fail(dlerror());
    }
    auto const setFinder = reinterpret_cast<void (*)(nvinfer1::ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    auto const getCreators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    if (setFinder == nullptr || getCreators == nullptr) {
      return fail("the library has no setLoggerFinder or getCreators");
    }
    setFinder(this);
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = getCreators(count);
    if (count == 0) {
      return fail("the library gives no creators");
    }
    for (int32_t i = 0; i < count; ++i) {
      if (!registerCreator(*creators[i], "")) {
        return fail("a creator is registered already");
      }
    }
    return library;
  }

  void deregisterLibrary(PluginLibraryHandle handle) noexcept override { dlclose(handle); }

  bool registerCreator(IPluginCreatorInterface& creator, AsciiChar const* /*space*/) noexcept override {
    if (loading_) {
      fail("the registry was called while it loads a library");
      return false;
    }
    auto const& one = static_cast<nvinfer1::IPluginCreatorV3One&>(creator);
    if (getCreator(one.getPluginName(), one.getPluginVersion(), one.getPluginNamespace()) != nullptr) {
      return false;
    }
    creators_.push_back(&creator);
    return true;
  }

  IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept override {
    *count = static_cast<int32_t>(creators_.size());
    return creators_.data();
  }

  // Later versions have it in the interface; hence no override.
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept { return getAllCreators(count); }

  IPluginCreatorInterface* getCreator(AsciiChar const* name, AsciiChar const* version,
                                      AsciiChar const* space) noexcept override {
    for (IPluginCreatorInterface* const creator : creators_) {
      auto const& one = static_cast<nvinfer1::IPluginCreatorV3One&>(*creator);
      if (std::strcmp(one.getPluginName(), name) == 0 && std::strcmp(one.getPluginVersion(), version) == 0 &&
          std::strcmp(one.getPluginNamespace(), space) == 0) {
        return creator;
      }
    }
    return nullptr;
  }

  bool deregisterCreator(IPluginCreatorInterface const& /*creator*/) noexcept override { return false; }
  nvinfer1::IPluginResource* acquirePluginResource(AsciiChar const* /*key*/,
                                                   nvinfer1::IPluginResource* resource) noexcept override {
    return resource;
  }
  int32_t releasePluginResource(AsciiChar const* /*key*/) noexcept override { return 0; }

#if NV_TENSORRT_MAJOR < 11
  bool registerCreator(nvinfer1::IPluginCreator& /*creator*/, AsciiChar const* /*space*/) noexcept override {
    return false;
  }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t* count) const noexcept override {
    *count = 0;
    return nullptr;
  }
  nvinfer1::IPluginCreator* getPluginCreator(AsciiChar const* /*name*/, AsciiChar const* /*version*/,
                                             AsciiChar const* /*space*/) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(nvinfer1::IPluginCreator const& /*creator*/) noexcept override { return false; }
#endif

 private:
  PluginLibraryHandle fail(char const* why) {
    if (logger != nullptr) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, why);
    }
    return nullptr;
  }

  nvinfer1::IErrorRecorder* recorder_ = nullptr;
  std::vector<IPluginCreatorInterface*> creators_;
  bool loading_ = false;
};

Registry registry;

}  // namespace

EXPORT int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }
EXPORT nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &registry; }
EXPORT nvinfer1::ILogger* getLogger() noexcept { return registry.logger; }
EXPORT void standinSetLogger(nvinfer1::ILogger* logger) noexcept { registry.logger = logger; }
