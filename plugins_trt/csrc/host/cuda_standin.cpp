// Stands in for libcuda.so.1: records modules, attributes and launches, refuses what a driver would refuse, and
// computes what a launched kernel would, from the arguments as they were passed. It learns of kernels from a text
// written from the manifest, not from the plugin library, so that a wrongly embedded argument list shows.
#include "cuda_standin.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>

#include "json.h"
#include "standin_kernels.h"

namespace adaptrt::host {

Device& device() {
  static Device one;
  return one;
}

bool Device::allowed(char const* what) {
  if (isCapturing) {
    records.push_back(JsonObject().text("refused", what).str());
  }
  return !isCapturing;
}

namespace {

struct Parameter {
  std::string name;
  std::string kind;
  std::string dtype;
};

struct KnownImage {
  int arch;
  bool isCubin;
  bool runsOnLater;
  std::string name;
  std::string content;
  std::string op;
  std::string entry;
  unsigned threads;
  unsigned sharedBytes;
  std::vector<Parameter> parameters;
};

std::vector<std::unique_ptr<KnownImage>> images;

struct Module {
  std::vector<KnownImage const*> images;
};

struct Function {
  KnownImage const* image;
  unsigned mostShared = 48 * 1024;
};

// Kept to the end, as the handles are pointers to them.
std::vector<std::unique_ptr<Module>> modules;
std::vector<std::unique_ptr<Function>> functions;

std::string readFile(std::string const& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// As long as an image says it is: an ELF file by its section headers, which end it, PTX by its zero.
size_t lengthOf(char const* image) {
  if (std::memcmp(image,
                  "\x7f"
                  "ELF",
                  4) != 0) {
    return std::strlen(image);
  }
  auto const field = [&](size_t at, size_t bytes) {
    uint64_t value = 0;
    std::memcpy(&value, image + at, bytes);
    return value;
  };
  // e_phoff, e_phentsize, e_phnum and the same of sections, in the 64-bit layout.
  uint64_t const programs = field(32, 8) + field(54, 2) * field(56, 2);
  uint64_t const sections = field(40, 8) + field(58, 2) * field(60, 2);
  return static_cast<size_t>(std::max(programs, sections));
}

}  // namespace
}  // namespace adaptrt::host

using namespace adaptrt::host;

// One kernel a line: arch, cubin or ptx, whether PTX may be compiled for later ones, file, op, entry, threads,
// shared bytes, then name:kind:dtype of each argument and name:constant:value of each constant. False where the text cannot be read.
ADAPTRT_EXPORT bool standinConfigure(int arch, int sharedBytes, bool refusesCubins, char const* kernels) {
  device().arch = arch;
  device().sharedBytes = sharedBytes;
  device().refusesCubins = refusesCubins;
  std::ifstream stream(kernels);
  std::string line;
  while (std::getline(stream, line)) {
    auto image = std::make_unique<KnownImage>();
    std::istringstream words(line);
    std::string kind;
    std::string path;
    words >> image->arch >> kind >> image->runsOnLater >> path >> image->op >> image->entry >> image->threads >>
        image->sharedBytes;
    image->isCubin = kind == "cubin";
    image->name = path;
    image->content = readFile(path);
    if (!words || image->content.empty()) {
      return false;
    }
    std::string word;
    while (words >> word) {
      std::istringstream parts(word);
      Parameter parameter;
      std::getline(parts, parameter.name, ':');
      std::getline(parts, parameter.kind, ':');
      std::getline(parts, parameter.dtype, ':');
      image->parameters.push_back(parameter);
    }
    images.push_back(std::move(image));
  }
  return !images.empty();
}

// What happened since the last call, as a JSON list.
ADAPTRT_EXPORT char const* standinRecords() {
  static std::string text;
  text = jsonList(device().records);
  device().records.clear();
  return text.c_str();
}

// As after a context was destroyed and another one came, perhaps at the same address.
ADAPTRT_EXPORT void standinRenewContext() { ++device().contextId; }

ADAPTRT_EXPORT int cuModuleLoadData(Module** module, void const* image) {
  if (!device().isCurrent) {
    return kInvalidContext;
  }
  if (!device().allowed("cuModuleLoadData")) {
    return kCaptureUnsupported;
  }
  auto const* const text = static_cast<char const*>(image);
  std::string const content(text, lengthOf(text));
  auto loaded = std::make_unique<Module>();
  int result = kInvalidImage;
  std::string name;
  for (auto const& known : images) {
    if (known->content == content) {
      bool const runs = known->isCubin
                            ? known->arch == device().arch && !device().refusesCubins
                            : known->arch == device().arch || (known->arch < device().arch && known->runsOnLater);
      result = runs ? kSuccess : kNoBinaryForGpu;
      name = known->name;
      loaded->images.push_back(known.get());
    }
  }
  device().records.push_back(JsonObject()
                                 .text("module", name)
                                 .number("result", result)
                                 .number("context", static_cast<long long>(device().contextId))
                                 .str());
  if (result == kSuccess) {
    *module = loaded.get();
    modules.push_back(std::move(loaded));
  }
  return result;
}

ADAPTRT_EXPORT int cuModuleUnload(Module* /*module*/) {
  device().records.push_back(JsonObject().truth("unload", true).str());
  return kSuccess;
}

ADAPTRT_EXPORT int cuModuleGetFunction(Function** function, Module* module, char const* name) {
  for (KnownImage const* const image : module->images) {
    if (image->entry == name) {
      functions.push_back(std::make_unique<Function>(Function{image}));
      *function = functions.back().get();
      return kSuccess;
    }
  }
  return kNotFound;
}

ADAPTRT_EXPORT int cuFuncSetAttribute(Function* function, int attribute, int value) {
  device().records.push_back(JsonObject()
                                 .text("function", function->image->entry)
                                 .number("attribute", attribute)
                                 .number("value", value)
                                 .str());
  constexpr int kMostDynamicSharedMemory = 8;
  if (attribute != kMostDynamicSharedMemory || value < 0 || value > device().sharedBytes) {
    return kInvalidValue;
  }
  function->mostShared = static_cast<unsigned>(value);
  return kSuccess;
}

ADAPTRT_EXPORT int cuFuncLoad(Function* /*function*/) {
  return device().allowed("cuFuncLoad") ? kSuccess : kCaptureUnsupported;
}

ADAPTRT_EXPORT int cuLaunchKernel(Function* function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                                  unsigned blockY, unsigned blockZ, unsigned sharedBytes, void* stream,
                                  void** parameters, void** extra) {
  KnownImage const& image = *function->image;
  Arguments arguments;
  JsonObject sizes;
  std::vector<std::string> order;
  for (size_t i = 0; i < image.parameters.size(); ++i) {
    Parameter const& parameter = image.parameters[i];
    Argument argument{parameter.kind, parameter.dtype, nullptr, 0};
    if (parameter.kind == "constant") {
      // Compiled into the kernel: stands behind all arguments and is not passed.
    } else if (parameter.kind == "size") {
      std::memcpy(&argument.value, parameters[i], sizeof argument.value);
      sizes.number(parameter.name, argument.value);
    } else {
      std::memcpy(&argument.pointer, parameters[i], sizeof argument.pointer);
    }
    arguments[parameter.name] = argument;
  }
  auto const three = [](unsigned x, unsigned y, unsigned z) {
    return jsonList({std::to_string(x), std::to_string(y), std::to_string(z)});
  };
  device().records.push_back(JsonObject()
                                 .text("launch", image.entry)
                                 .text("op", image.op)
                                 .text("image", image.name)
                                 .add("grid", three(gridX, gridY, gridZ))
                                 .add("block", three(blockX, blockY, blockZ))
                                 .number("shared", sharedBytes)
                                 .add("sizes", sizes.str())
                                 .truth("captured", device().isCapturing)
                                 .truth("on_a_stream", stream != nullptr)
                                 .str());
  if (gridX == 0 || gridY == 0 || gridZ == 0 || gridY > 65535 || gridZ > 65535 || extra != nullptr ||
      blockX != image.threads || blockY != 1 || blockZ != 1 || sharedBytes != image.sharedBytes ||
      sharedBytes > function->mostShared) {
    return kInvalidValue;
  }
  std::string const entry = image.entry;
  auto const run = [entry, arguments] {
    if (!compute(entry, arguments)) {
      device().records.push_back(JsonObject().text("refused", "computing " + entry).str());
    }
  };
  if (device().isCapturing) {
    device().captured.emplace_back(run);
  } else {
    run();
  }
  return kSuccess;
}
