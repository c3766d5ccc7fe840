// What is left of the tensors between two stages when some samples have left.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "adaptrt/bundle/schema.hpp"
#include "adaptrt/tensor.hpp"

namespace adaptrt {

namespace compaction {

// Copy, of the axes from `axis` on, the first `sizes` entries of each.
inline void copy(const char* from, const Shape& shape, const Shape& sizes, size_t axis, size_t each, char*& to) {
  bool whole = true;
  for (size_t i = axis + 1; i < shape.size(); ++i) whole &= shape[i] == sizes[i];
  const size_t step = each * static_cast<size_t>(elements_of(shape, axis + 1));
  if (axis >= shape.size() || whole) {
    const size_t bytes = axis >= shape.size() ? each : step * static_cast<size_t>(sizes[axis]);
    if (bytes) std::memcpy(to, from, bytes);
    to += bytes;
    return;
  }
  for (int64_t i = 0; i < sizes[axis]; ++i)
    copy(from + static_cast<size_t>(i) * step, shape, sizes, axis + 1, each, to);
}

}  // namespace compaction

// Some rows of an array, in this order, and of its other axes the first `sizes` entries (the first size is not read).
inline Tensor taken(const TensorView& array, const std::vector<int64_t>& rows, Shape sizes) {
  sizes[0] = static_cast<int64_t>(rows.size());
  void* data = nullptr;
  Tensor result = Tensor::make(array.dtype, sizes, &data);
  const size_t each = record_of(array.dtype).size, row = each * static_cast<size_t>(elements_of(array.shape, 1));
  char* to = static_cast<char*>(data);
  for (const int64_t i : rows) {
    compaction::copy(static_cast<const char*>(array.data) + static_cast<size_t>(i) * row, array.shape, sizes, 1, each,
                     to);
  }
  return result;
}

inline std::vector<int64_t> all_rows(int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = i;
  return rows;
}

// How to compact the tensors that one stage takes.
class Compaction {
 public:
  // An axis of a carried tensor along which tokens lie, and which of the carried tensors is their mask.
  struct TokenAxis {
    size_t axis, mask;
  };

  Compaction() = default;
  explicit Compaction(const bundle::Bundle& bundle, const std::vector<bundle::Carry>& carried) : axes_(carried.size()) {
    std::set<std::string> masks, whole;  // axes that stay as they are, as outputs of the bundle have them
    for (const auto& [name, tokens] : bundle.tokens) {
      if (tokens.valid) masks.insert(*tokens.valid);
    }
    for (const bundle::TensorSpec& spec : bundle.outputs) {
      for (const bundle::Size& size : spec.shape) {
        if (const auto* name = std::get_if<std::string>(&size)) whole.insert(*name);
      }
    }
    std::map<std::string, size_t> mask_of;  // by the name of the axis
    for (size_t i = 0; i < carried.size(); ++i) {
      if (masks.count(carried[i].name) == 0) continue;
      const auto* axis = std::get_if<std::string>(&carried[i].shape[1]);
      if (axis && whole.count(*axis) == 0) mask_of[*axis] = i;
    }
    for (size_t i = 0; i < carried.size(); ++i) {
      for (size_t axis = 1; axis < carried[i].shape.size(); ++axis) {
        const auto* name = std::get_if<std::string>(&carried[i].shape[axis]);
        if (name && mask_of.count(*name)) axes_[i].push_back({axis, mask_of.at(*name)});
      }
    }
  }

  const std::vector<TokenAxis>& token_axes(size_t carried) const { return axes_[carried]; }

  // The sizes of a carried tensor of this shape with so many tokens, by the number of the mask.
  Shape cut(size_t carried, Shape shape, const std::map<size_t, int64_t>& widths) const {
    for (const TokenAxis& token : axes_[carried])
      shape[token.axis] = std::min(shape[token.axis], widths.at(token.mask));
    return shape;
  }

  // Keep some samples, at least one, and no more tokens than the one with most of them needs.
  std::vector<Tensor> apply(const std::vector<TensorView>& carried, const std::vector<int64_t>& rows) const {
    std::map<size_t, int64_t> widths;
    for (const auto& axes : axes_) {
      for (const TokenAxis& token : axes) {
        if (widths.count(token.mask) == 0) widths[token.mask] = last_valid(carried[token.mask], rows) + 1;
      }
    }
    std::vector<Tensor> kept;
    for (size_t i = 0; i < carried.size(); ++i)
      kept.push_back(taken(carried[i], rows, cut(i, carried[i].shape, widths)));
    return kept;
  }

 private:
  // The last column with a true value, 0 if there is none.
  static int64_t last_valid(const TensorView& mask, const std::vector<int64_t>& rows) {
    const auto* valid = static_cast<const uint8_t*>(mask.data);
    const int64_t width = mask.shape[1];
    int64_t last = 0;
    for (const int64_t row : rows) {
      for (int64_t column = width - 1; column > last; --column) {
        if (valid[row * width + column]) last = column;
      }
    }
    return last;
  }

  std::vector<std::vector<TokenAxis>> axes_;
};

}  // namespace adaptrt
