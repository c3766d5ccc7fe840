// One graph in ONNX Runtime, and the values that go in and come out.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adaptrt/bundle/expectations.hpp"
#include "adaptrt/onnxruntime_library.hpp"
#include "adaptrt/providers.hpp"
#include "adaptrt/tensor.hpp"

namespace adaptrt {

// An `OrtValue`, released with its last copy.
using Value = std::shared_ptr<OrtValue>;

inline Value owned(const OnnxRuntimeLibrary& library, OrtValue* value) {
  return Value(value, [api = &library.api()](OrtValue* one) { api->ReleaseValue(one); });
}

// What a graph takes or gives, as ONNX Runtime describes it; an axis without a name is "?".
struct GraphTensor {
  std::string dtype;
  bundle::Sizes shape;
};

// What a session is made of.
struct SessionProgram {
  std::string model;        // the bytes of the file, as they were verified
  std::string file;         // for messages
  std::string data_folder;  // of external data; empty where there is none
  bool alone = true;        // whether no other session runs in turn with it
  int threads = 1;
  Providers providers;  // in order of preference; empty is the CPU
};

// Safe to run from any number of threads.
class Session {
 public:
  Session(OnnxRuntimeLibrary& library, const SessionProgram& program)
      : library_(&library),
        file_(program.file),
        memory_(nullptr, library.api().ReleaseMemoryInfo),
        session_(nullptr, library.api().ReleaseSession) {
    const OrtApi& api = library.api();
    OrtMemoryInfo* memory = nullptr;
    library.check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "describe memory");
    memory_.reset(memory);
    OrtSessionOptions* made = nullptr;
    library.check(api.CreateSessionOptions(&made), "make options");
    const Held<OrtSessionOptions> options(made, api.ReleaseSessionOptions);
    const auto set = [&](const char* key, const char* value) {
      library.check(api.AddSessionConfigEntry(options.get(), key, value), "set an option");
    };
    set("session.load_model_format", "ONNX");
    library.check(api.SetIntraOpNumThreads(options.get(), program.threads), "set threads");
    library.check(api.SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL), "set an option");
    if (!program.alone) {
      if (library.shares_memory()) set("session.use_env_allocators", "1");
      // Threads that spin in one stage's pool would take the cores from the next.
      if (program.threads != 1) set("session.force_spinning_stop", "1");
    }
    if (!program.data_folder.empty()) {
      set("session.model_external_initializers_file_folder_path", program.data_folder.c_str());
    }
    append_providers(library, options.get(), program.providers);
    OrtSession* session = nullptr;
    OrtStatus* status = api.CreateSessionFromArray(library.environment(), program.model.data(), program.model.size(),
                                                   options.get(), &session);
    if (status) {
      throw Failure(ErrorKind::backend, file_ + ": onnxruntime " + library.version() + " refuses it (" +
                                            library.text_of(status) +
                                            "); export the model again, or install another onnxruntime");
    }
    session_.reset(session);
    describe(true);
    describe(false);
  }

  const std::map<std::string, GraphTensor>& inputs() const { return inputs_; }
  const std::map<std::string, GraphTensor>& outputs() const { return outputs_; }
  const std::string& file() const { return file_; }
  // ONNX Runtime's own, for calls around this library.
  OrtSession* handle() const { return session_.get(); }

  // A value over memory of others, which has to live as long.
  Value wrap(const TensorView& array) const {
    OrtValue* value = nullptr;
    static char nothing = 0;  // ONNX Runtime takes no null, not even for no elements
    void* data = array.data ? const_cast<void*>(array.data) : &nothing;
    OrtStatus* status =
        library_->api().CreateTensorWithDataAsOrtValue(memory_.get(), data, array.bytes(), array.shape.data(),
                                                       array.shape.size(), record_of(array.dtype).element, &value);
    library_->check(status, "take an array");
    return owned(*library_, value);
  }

  // An array over the memory of a value, which it keeps.
  Tensor tensor(const Value& value) const {
    const OrtApi& api = library_->api();
    OrtTensorTypeAndShapeInfo* info = nullptr;
    library_->check(api.GetTensorTypeAndShape(value.get(), &info), "describe an output");
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    OrtStatus* status = api.GetTensorElementType(info, &element);
    if (!status) status = api.GetDimensionsCount(info, &rank);
    Shape shape(rank);
    if (!status) status = api.GetDimensions(info, shape.data(), rank);
    api.ReleaseTensorTypeAndShapeInfo(info);
    library_->check(status, "describe an output");
    const DTypeRecord* record = dtype_of_element(element);
    void* data = nullptr;
    if (record) library_->check(api.GetTensorMutableData(value.get(), &data), "give an output");
    if (!record)
      throw Failure(ErrorKind::backend,
                    file_ + ": got an output of no numbers, expected a tensor of them; export the model again");
    return Tensor(record->dtype, std::move(shape), std::shared_ptr<const void>(value, data));
  }

  // Execute on checked values; the named outputs in that order.
  void run(const std::vector<const char*>& names, const std::vector<const OrtValue*>& feeds,
           const std::vector<const char*>& wanted, std::vector<Value>& got) const {
    std::vector<OrtValue*> raw(wanted.size(), nullptr);
    OrtStatus* status = library_->api().Run(session_.get(), nullptr, names.data(), feeds.data(), feeds.size(),
                                            wanted.data(), wanted.size(), raw.data());
    if (status) throw failed(names, feeds, status);
    got.clear();
    for (OrtValue* value : raw) got.push_back(owned(*library_, value));
  }

 private:
  template <class Kind>
  using Held = std::unique_ptr<Kind, void (*)(Kind*)>;

  Failure failed(const std::vector<const char*>& names, const std::vector<const OrtValue*>& feeds,
                 OrtStatus* status) const {
    std::string shapes;
    for (size_t i = 0; i < feeds.size(); ++i) {
      const Value borrowed(const_cast<OrtValue*>(feeds[i]), [](OrtValue*) {});
      shapes += (i ? ", " : "") + std::string(names[i]) + " " + shown(tensor(borrowed).shape());
    }
    return Failure(ErrorKind::backend,
                   file_ + ": onnxruntime " + library_->version() + " failed on " + shapes + " (" +
                       library_->text_of(status) +
                       "); run `adaptrt verify` on the bundle, or feed a smaller batch if memory ran out");
  }

  void describe(bool fed) {
    const OrtApi& api = library_->api();
    OrtAllocator* allocator = nullptr;
    library_->check(api.GetAllocatorWithDefaultOptions(&allocator), "describe the graph");
    size_t count = 0;
    library_->check(
        fed ? api.SessionGetInputCount(session_.get(), &count) : api.SessionGetOutputCount(session_.get(), &count),
        "describe the graph");
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      OrtTypeInfo* type = nullptr;
      library_->check(fed ? api.SessionGetInputName(session_.get(), i, allocator, &name)
                          : api.SessionGetOutputName(session_.get(), i, allocator, &name),
                      "describe the graph");
      const std::string key = name;
      allocator->Free(allocator, name);
      library_->check(fed ? api.SessionGetInputTypeInfo(session_.get(), i, &type)
                          : api.SessionGetOutputTypeInfo(session_.get(), i, &type),
                      "describe the graph");
      const std::unique_ptr<OrtTypeInfo, decltype(api.ReleaseTypeInfo)> held(type, api.ReleaseTypeInfo);
      (fed ? inputs_ : outputs_)[key] = tensor_of(type);
    }
  }

  GraphTensor tensor_of(const OrtTypeInfo* type) const {
    const OrtApi& api = library_->api();
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    library_->check(api.CastTypeInfoToTensorInfo(type, &info), "describe the graph");
    if (!info) return {"no tensor", {}};
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t rank = 0;
    library_->check(api.GetTensorElementType(info, &element), "describe the graph");
    library_->check(api.GetDimensionsCount(info, &rank), "describe the graph");
    Shape sizes(rank);
    std::vector<const char*> axes(rank);
    library_->check(api.GetDimensions(info, sizes.data(), rank), "describe the graph");
    library_->check(api.GetSymbolicDimensions(info, axes.data(), rank), "describe the graph");
    const DTypeRecord* record = dtype_of_element(element);
    GraphTensor tensor{record ? record->name : "another dtype", {}};
    for (size_t axis = 0; axis < rank; ++axis) {
      if (sizes[axis] >= 0)
        tensor.shape.emplace_back(sizes[axis]);
      else
        tensor.shape.emplace_back(axes[axis] && *axes[axis] ? std::string(axes[axis]) : std::string("?"));
    }
    return tensor;
  }

  OnnxRuntimeLibrary* library_;
  std::string file_;
  Held<OrtMemoryInfo> memory_;
  Held<OrtSession> session_;
  std::map<std::string, GraphTensor> inputs_, outputs_;
};

}  // namespace adaptrt
