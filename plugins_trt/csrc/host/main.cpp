// Plays TensorRT's part for one plugin: loads the library as TensorRT, trtexec or ONNX Runtime do, takes a plugin
// through every phase, and prints what it saw as JSON. Exit status: 0 where all phases went well, 1 where a plugin
// gave a failure (the report says which), 2 where the host itself could not go on.
#include <dlfcn.h>

#include <iostream>
#include <optional>

#include "phases.h"

namespace adaptrt::host {
namespace {

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, char const* message) noexcept override {
    static constexpr char const* kNames[] = {"internal_error", "error", "warning", "info", "verbose"};
    lines.push_back(JsonObject().text("severity", kNames[static_cast<int>(severity)]).text("message", message).str());
  }
  std::vector<std::string> lines;
};

class Recorder final : public nvinfer1::IErrorRecorder {
 public:
  int32_t getNbErrors() const noexcept override { return static_cast<int32_t>(lines.size()); }
  nvinfer1::ErrorCode getErrorCode(int32_t /*index*/) const noexcept override { return nvinfer1::ErrorCode::kSUCCESS; }
  ErrorDesc getErrorDesc(int32_t /*index*/) const noexcept override { return ""; }
  bool hasOverflowed() const noexcept override { return false; }
  void clear() noexcept override { lines.clear(); }
  bool reportError(nvinfer1::ErrorCode code, ErrorDesc text) noexcept override {
    lines.push_back(JsonObject().number("code", static_cast<int>(code)).text("message", text).str());
    return true;
  }
  RefCount incRefCount() noexcept override { return ++references_; }
  RefCount decRefCount() noexcept override { return --references_; }
  std::vector<std::string> lines;

 private:
  RefCount references_ = 0;
};

struct Options {
  std::string library;
  std::string tensorrt;
  std::string cuda;
  std::string kernels;
  std::string how = "registry";
  std::string scenario;
  int arch = 87;
  int shared = 166912;
  bool refusesCubins = false;
  bool late = false;
};

Options read(int count, char** words) {
  Options options;
  std::map<std::string, std::string*> const texts{{"--library", &options.library}, {"--tensorrt", &options.tensorrt},
                                                  {"--cuda", &options.cuda},       {"--kernels", &options.kernels},
                                                  {"--load", &options.how},        {"--scenario", &options.scenario}};
  std::map<std::string, int*> const numbers{{"--arch", &options.arch}, {"--shared", &options.shared}};
  std::map<std::string, bool*> const flags{{"--refuse-cubins", &options.refusesCubins}, {"--late", &options.late}};
  for (int i = 1; i < count; ++i) {
    std::string const word = words[i];
    if (flags.count(word) != 0) {
      *flags.at(word) = true;
    } else if (i + 1 < count && texts.count(word) != 0) {
      *texts.at(word) = words[++i];
    } else if (i + 1 < count && numbers.count(word) != 0) {
      *numbers.at(word) = std::stoi(words[++i]);
    } else {
      throw std::runtime_error("unknown or incomplete option " + word);
    }
  }
  return options;
}

void* open(std::string const& path, int mode) {
  void* const library = dlopen(path.c_str(), mode);
  if (library == nullptr) {
    throw std::runtime_error(std::string("cannot load: ") + dlerror());
  }
  return library;
}

struct Tensorrt {
  explicit Tensorrt(std::string const& path, Logger* logger) : library(open(path, RTLD_NOW | RTLD_LOCAL)) {
    if (auto const set = reinterpret_cast<void (*)(nvinfer1::ILogger*)>(dlsym(library, "standinSetLogger"))) {
      set(logger);
      registry = reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"))();
    }
  }
  void* library;
  nvinfer1::IPluginRegistry* registry = nullptr;
};

// The ways in which programs load a library of plugins; gives whether the loader was content.
bool load(Options const& options, nvinfer1::IPluginRegistry* registry, JsonObject& report) {
  if (options.how == "registry") {
    return registry->loadLibrary(options.library.c_str()) != nullptr;
  }
  void* const library = open(options.library, RTLD_NOW | RTLD_LOCAL);
  if (options.how == "creators") {
    int32_t count = -1;
    reinterpret_cast<void* (*)(int32_t&)>(dlsym(library, "getCreators"))(count);
    report.number("creators_given", count);
  }
  if (options.how == "register") {
    report.number("registered", reinterpret_cast<int32_t (*)()>(dlsym(library, "adaptrtRegisterPlugins"))());
  }
  return true;
}

std::string creatorsText(nvinfer1::IPluginRegistry& registry) {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* const creators = registry.getAllCreators(&count);
  std::vector<std::string> texts;
  for (int32_t i = 0; i < count; ++i) {
    auto& one = static_cast<nvinfer1::IPluginCreatorV3One&>(*creators[i]);
    texts.push_back(jsonText(std::string(one.getPluginNamespace()) + "::" + one.getPluginName() + " " +
                             one.getPluginVersion() + " " + one.getInterfaceInfo().kind));
  }
  return jsonList(texts);
}

void play(Options const& options, nvinfer1::IPluginRegistry& registry, Recorder& recorder, std::optional<Gpu>& gpu,
          JsonObject& report) {
  Scenario const scenario = readScenario(options.scenario);
  auto* const creator = registry.getCreator(scenario.plugin.c_str(), "1", "adaptrt");
  if (creator == nullptr) {
    throw PhaseFailed("getCreator");
  }
  auto& one = static_cast<nvinfer1::IPluginCreatorV3One&>(*creator);
  ExpressionBuilder builder;
  Built const built = build(scenario, one, builder, report);
  if (!scenario.runs.empty()) {
    run(scenario, built, one, recorder, gpu.value(), report);
  }
}

int main(int count, char** words) {
  Options const options = read(count, words);
  Logger logger;
  Recorder recorder;
  JsonObject report;
  std::optional<Tensorrt> tensorrt;
  std::optional<Gpu> gpu;
  if (!options.tensorrt.empty() && !options.late) {
    tensorrt.emplace(options.tensorrt, &logger);
  }
  char const* (*records)() = nullptr;
  if (!options.cuda.empty()) {
    gpu.emplace(options.cuda);
    using Configure = bool (*)(int, int, bool, char const*);
    if (auto const configure = reinterpret_cast<Configure>(gpu->symbol("standinConfigure"))) {
      if (!configure(options.arch, options.shared, options.refusesCubins, options.kernels.c_str())) {
        throw std::runtime_error("cannot read " + options.kernels);
      }
      records = reinterpret_cast<char const* (*)()>(gpu->symbol("standinRecords"));
    }
  }
  if (options.late && !options.tensorrt.empty()) {
    open(options.library, RTLD_NOW | RTLD_LOCAL);
    tensorrt.emplace(options.tensorrt, &logger);
  }
  nvinfer1::IPluginRegistry* const registry = tensorrt ? tensorrt->registry : nullptr;
  report.truth("loaded", load(options, registry, report));
  int status = 0;
  if (registry != nullptr) {
    report.add("creators", creatorsText(*registry));
    try {
      if (!options.scenario.empty()) {
        play(options, *registry, recorder, gpu, report);
      }
    } catch (PhaseFailed const& failed) {
      report.text("failed", failed.what());
      status = 1;
    }
  }
  report.add("log", jsonList(logger.lines));
  report.add("recorded", jsonList(recorder.lines));
  report.add("driver", records == nullptr ? "[]" : records());
  std::cout << report.str() << "\n";
  return status;
}

}  // namespace
}  // namespace adaptrt::host

int main(int count, char** words) {
  try {
    return adaptrt::host::main(count, words);
  } catch (std::exception const& error) {
    std::cerr << "adaptrt_plugin_host: " << error.what() << "\n";
    return 2;
  }
}
