// Arrays: views of the caller's memory, and results that own theirs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adaptrt/dtype.hpp"
#include "adaptrt/message_text.hpp"

namespace adaptrt {

using Shape = std::vector<int64_t>;

// Counted without a sign: sizes of a bundle that no memory holds must not be undefined behaviour.
inline int64_t elements_of(const Shape& shape, size_t from = 0) {
  uint64_t count = 1;
  for (size_t axis = from; axis < shape.size(); ++axis) count *= static_cast<uint64_t>(shape[axis]);
  return static_cast<int64_t>(count);
}

// Such as `[2, 3]`.
inline std::string shown(const Shape& shape) {
  std::string text = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

// Somebody else's array: row-major, without gaps, alive while it is used.
struct TensorView {
  DType dtype = DType::float32;
  Shape shape;
  const void* data = nullptr;

  template <class Element>
  static TensorView of(const Element* data, Shape shape) {
    return {dtype_of<Element>(), std::move(shape), data};
  }

  int64_t size() const { return elements_of(shape); }
  size_t bytes() const { return static_cast<size_t>(size()) * record_of(dtype).size; }
};

// An array that owns its memory, or shares the engine's; copies share it.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape, std::shared_ptr<const void> memory)
      : view_{dtype, std::move(shape), memory.get()}, memory_(std::move(memory)) {}

  // Memory of its own, not filled; `data` is where to write.
  static Tensor make(DType dtype, Shape shape, void** data) {
    const size_t bytes = static_cast<size_t>(elements_of(shape)) * record_of(dtype).size;
    std::shared_ptr<char> memory(new char[bytes ? bytes : 1], std::default_delete<char[]>());
    *data = memory.get();
    return Tensor(dtype, std::move(shape), std::shared_ptr<const void>(memory));
  }

  DType dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  int64_t size() const { return view_.size(); }
  const void* bytes() const { return view_.data; }
  const TensorView& view() const { return view_; }

  // The elements, or nothing where they are of another type.
  template <class Element>
  const Element* data() const {
    return dtype_of<Element>() == view_.dtype ? static_cast<const Element*>(view_.data) : nullptr;
  }

 private:
  TensorView view_;
  std::shared_ptr<const void> memory_;
};

// An array with the name of the input that it is for.
struct NamedView {
  std::string name;
  TensorView array;
};

// An output.
struct NamedTensor {
  std::string name;
  Tensor array;
};

}  // namespace adaptrt
