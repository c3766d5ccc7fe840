// Checks what the engine gave against what the bundle declares, and makes the answer for no samples.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "adaptrt/inputs.hpp"

namespace adaptrt {

// The outputs of a bundle. An engine that answers with something of another size has not answered.
class OutputContract {
 public:
  OutputContract(const bundle::Bundle& bundle, const AxisNames& axes) : specs_(bundle.outputs) {
    for (const bundle::TensorSpec& spec : specs_) {
      dtypes_.push_back(dtype_named(spec.dtype)->dtype);
      std::vector<int> numbers;
      for (const bundle::Size& size : spec.shape) {
        const auto* name = std::get_if<std::string>(&size);
        numbers.push_back(name ? axes.of(*name) : -1);
      }
      axes_.push_back(std::move(numbers));
      if (spec.name == bundle::macs_output) macs_ = axes_.size() - 1;
    }
  }

  // Where `macs_fraction` stands among the outputs.
  size_t macs() const { return macs_; }

  // Check every array, in the bundle's order. Throws `Failure`.
  void check(const std::vector<Tensor>& outputs, const AxisSizes& sizes) const {
    for (size_t i = 0; i < specs_.size(); ++i) {
      const Tensor& output = outputs[i];
      bool fine = output.dtype() == dtypes_[i] && output.shape().size() == specs_[i].shape.size();
      for (size_t axis = 0; fine && axis < output.shape().size(); ++axis) {
        const int64_t wanted = size(i, axis, sizes);
        fine = wanted < 0 || wanted == output.shape()[axis];
      }
      if (!fine) refuse(i, output, sizes);
    }
    const Tensor& share = outputs[macs_];
    const float* shares = share.data<float>();
    for (int64_t i = 0; i < share.size(); ++i) {
      if (0 <= shares[i] && shares[i] <= static_cast<float>(bundle::max_fraction)) continue;
      throw Failure(
          ErrorKind::backend,
          "output 'macs_fraction': got " + text::number(static_cast<double>(shares[i])) +
              ", expected 0 to 100; the inputs are too large for the network to compute with, or the engine is "
              "broken: feed numbers like those of its training");
    }
  }

  // Every output with no samples in it, made without the graph, as not every operator takes empty tensors; nothing
  // where a shape does not follow from the inputs.
  std::optional<std::vector<Tensor>> of_empty_batch(int batch, const AxisSizes& sizes) const {
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < specs_.size(); ++i) {
      Shape shape;
      bool batched = false;
      for (size_t axis = 0; axis < specs_[i].shape.size(); ++axis) {
        batched |= axes_[i][axis] == batch;
        shape.push_back(size(i, axis, sizes));
        if (shape.back() < 0) return std::nullopt;
      }
      if (!batched) return std::nullopt;
      void* data = nullptr;
      outputs.push_back(Tensor::make(dtypes_[i], std::move(shape), &data));
    }
    return outputs;
  }

 private:
  // -1 for an axis that no input has.
  int64_t size(size_t output, size_t axis, const AxisSizes& sizes) const {
    const auto* fixed = std::get_if<int64_t>(&specs_[output].shape[axis]);
    if (fixed) return *fixed;
    const int number = axes_[output][axis];
    return number < 0 ? -1 : sizes[static_cast<size_t>(number)];
  }

  [[noreturn]] void refuse(size_t i, const Tensor& output, const AxisSizes& sizes) const {
    std::vector<std::string> wanted;
    for (size_t axis = 0; axis < specs_[i].shape.size(); ++axis) {
      const int64_t number = size(i, axis, sizes);
      wanted.push_back(number < 0 ? std::get<std::string>(specs_[i].shape[axis]) : std::to_string(number));
    }
    throw Failure(ErrorKind::backend, "output " + text::quoted(specs_[i].name) + " came out as " +
                                          record_of(output.dtype()).name + " " + shown(output.shape()) + ", expected " +
                                          specs_[i].dtype + " [" + text::joined(wanted, "") +
                                          "]; call it again, and if it stays so run `adaptrt verify` on the bundle");
  }

  std::vector<bundle::TensorSpec> specs_;
  std::vector<DType> dtypes_;
  std::vector<std::vector<int>> axes_;
  size_t macs_ = 0;
};

}  // namespace adaptrt
