#include "phases.h"

#include <cstdint>
#include <fstream>
#include <iterator>

namespace adaptrt::host {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::IPluginV3OneRuntime;
using nvinfer1::PluginTensorDesc;

namespace {

// Workspaces begin here and end with their last byte, so that a plugin that trusts an alignment or a length shows.
constexpr size_t kWorkspaceOffset = 64;
// The bit pattern is a NaN in every real type and -1 in every whole one.
constexpr unsigned char kPoison = 0xff;

class Context final : public nvinfer1::IPluginResourceContext {
 public:
  explicit Context(nvinfer1::IErrorRecorder& recorder) : recorder_(recorder) {}
  ~Context() noexcept override = default;
  nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return &recorder_; }

 private:
  nvinfer1::IErrorRecorder& recorder_;
};

class Buffer {
 public:
  Buffer(Gpu& gpu, size_t bytes, size_t offset) : gpu_(gpu), bytes_(bytes), offset_(offset) {
    begin_ = bytes == 0 ? 0 : gpu.allocate(bytes + offset);
    gpu.fill(begin_, kPoison, bytes == 0 ? 0 : bytes + offset);
  }
  Buffer(Buffer const&) = delete;
  Buffer& operator=(Buffer const&) = delete;
  ~Buffer() { gpu_.release(begin_); }
  void* pointer() const { return begin_ == 0 ? nullptr : reinterpret_cast<void*>(begin_ + offset_); }
  void write(std::vector<char> const& content) { gpu_.write(begin_ + offset_, content); }
  std::vector<char> read() { return gpu_.read(begin_ + offset_, bytes_); }

 private:
  Gpu& gpu_;
  size_t bytes_;
  size_t offset_;
  Gpu::Address begin_;
};

PluginTensorDesc describe(DataType type, Dims const& dims) {
  PluginTensorDesc desc{};
  desc.dims = dims;
  desc.type = type;
  desc.format = nvinfer1::TensorFormat::kLINEAR;
  return desc;
}

// One run's tensors.
struct Shapes {
  std::vector<PluginTensorDesc> inputs;
  std::vector<PluginTensorDesc> outputs;
};

Shapes shapesOf(Scenario const& scenario, Built const& built, Run const& run) {
  Shapes shapes;
  std::map<std::string, int64_t> symbols;
  for (size_t i = 0; i < scenario.inputs.size(); ++i) {
    Input const& input = scenario.inputs[i];
    Dims const& dims = run.feeds.at(i).dims;
    shapes.inputs.push_back(describe(input.type, dims));
    for (size_t axis = 0; axis < input.axes.size(); ++axis) {
      symbols[input.axes[axis]] = dims.d[axis];
    }
  }
  for (size_t i = 0; i < built.outputShapes.size(); ++i) {
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(built.outputShapes[i].size());
    for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
      dims.d[axis] = built.outputShapes[i][static_cast<size_t>(axis)]->value(symbols);
    }
    shapes.outputs.push_back(describe(built.outputTypes[i], dims));
  }
  return shapes;
}

size_t bytesOf(PluginTensorDesc const& desc) {
  return static_cast<size_t>(elements(desc.dims)) * host::bytesOf(desc.type);
}

bool announce(IPluginV3OneRuntime& plugin, Shapes const& shapes) {
  return plugin.onShapeChange(shapes.inputs.data(), static_cast<int32_t>(shapes.inputs.size()), shapes.outputs.data(),
                              static_cast<int32_t>(shapes.outputs.size())) == 0;
}

std::vector<char> readFile(std::string const& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// The outputs' bytes. Throws PhaseFailed.
std::vector<std::vector<char>> enqueue(IPluginV3OneRuntime& plugin, Shapes const& shapes, Run const& run,
                                       size_t workspaceBytes, Gpu& gpu) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<void const*> inputs;
  std::vector<void*> outputs;
  for (size_t i = 0; i < shapes.inputs.size(); ++i) {
    std::vector<char> const content = readFile(run.feeds[i].file);
    if (content.size() != bytesOf(shapes.inputs[i])) {
      throw std::runtime_error(run.feeds[i].file + " is not as long as its shape says");
    }
    buffers.push_back(std::make_unique<Buffer>(gpu, content.size(), run.unaligned && i == 0 ? 4 : 0));
    buffers.back()->write(content);
    inputs.push_back(buffers.back()->pointer());
  }
  size_t const firstOutput = buffers.size();
  for (PluginTensorDesc const& desc : shapes.outputs) {
    buffers.push_back(std::make_unique<Buffer>(gpu, bytesOf(desc), 0));
    outputs.push_back(buffers.back()->pointer());
  }
  Buffer workspace(gpu, workspaceBytes, kWorkspaceOffset);
  if (run.captures) {
    gpu.beginCapture();
  }
  int32_t const result = plugin.enqueue(shapes.inputs.data(), shapes.outputs.data(), inputs.data(), outputs.data(),
                                        workspace.pointer(), static_cast<cudaStream_t>(gpu.stream()));
  if (run.captures) {
    gpu.launchCapture();
  }
  gpu.wait();
  if (result != 0) {
    throw PhaseFailed("enqueue");
  }
  std::vector<std::vector<char>> results;
  for (size_t i = firstOutput; i < buffers.size(); ++i) {
    results.push_back(buffers[i]->read());
  }
  return results;
}

IPluginV3OneRuntime& runtimeOf(Plugin const& plugin) {
  return static_cast<IPluginV3OneRuntime&>(*plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
}

}  // namespace

void run(Scenario const& scenario, Built const& built, nvinfer1::IPluginCreatorV3One& creator,
         nvinfer1::IErrorRecorder& recorder, Gpu& gpu, JsonObject& report) {
  Context context(recorder);
  // Two execution contexts of one engine; the one that it was copied from is gone by then.
  Plugin attached;
  Plugin other;
  {
    Plugin const created = create(scenario, creator, built.fields, nvinfer1::TensorRTPhase::kRUNTIME);
    Plugin const copy(created->clone());
    if (copy == nullptr) {
      throw PhaseFailed("clone");
    }
    attached.reset(runtimeOf(copy).attachToContext(&context));
    other.reset(runtimeOf(created).attachToContext(&context));
    if (attached == nullptr || other == nullptr) {
      throw PhaseFailed("attachToContext");
    }
  }
  std::vector<std::vector<char>> first;
  std::vector<std::string> shapesText;
  for (Run const& one : scenario.runs) {
    Shapes const shapes = shapesOf(scenario, built, one);
    if (auto const renew = reinterpret_cast<void (*)()>(gpu.symbol("standinRenewContext")); one.renews && renew) {
      renew();
    }
    bool const isFirst = &one == &scenario.runs.front();
    if (!one.unannounced &&
        (!announce(runtimeOf(attached), shapes) || (isFirst && !announce(runtimeOf(other), shapes)))) {
      throw PhaseFailed("onShapeChange");
    }
    std::vector<std::vector<char>> const results = enqueue(runtimeOf(attached), shapes, one, built.workspace, gpu);
    for (size_t i = 0; i < results.size(); ++i) {
      std::ofstream(one.results.at(i), std::ios::binary)
          .write(results[i].data(), static_cast<std::streamsize>(results[i].size()));
      std::vector<std::string> axes;
      for (int32_t axis = 0; axis < shapes.outputs[i].dims.nbDims; ++axis) {
        axes.push_back(std::to_string(shapes.outputs[i].dims.d[axis]));
      }
      shapesText.push_back(jsonList(axes));
    }
    if (isFirst) {
      first = results;
    }
  }
  report.add("result_shapes", jsonList(shapesText));
  // The other context still has the first run's shapes, whatever came to this one since.
  Run const& again = scenario.runs.front();
  Shapes const shapes = shapesOf(scenario, built, again);
  report.truth("independent", enqueue(runtimeOf(other), shapes, again, built.workspace, gpu) == first);
}

}  // namespace adaptrt::host
