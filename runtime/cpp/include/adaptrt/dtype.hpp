// The types of elements, one record each.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "onnxruntime/onnxruntime_c_api.h"

namespace adaptrt {

enum class DType : uint8_t {
  boolean,
  uint8,
  uint16,
  uint32,
  uint64,
  int8,
  int16,
  int32,
  int64,
  float16,
  float32,
  float64,
};

// `kind` is numpy's: b, u, i or f. Whole numbers have limits, floats the largest finite one.
struct DTypeRecord {
  DType dtype;
  const char* name;
  size_t size;
  char kind;
  ONNXTensorElementDataType element;
  int64_t least;
  uint64_t most;
  double largest;
};

inline constexpr DTypeRecord dtype_records[] = {
    {DType::boolean, "bool", 1, 'b', ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, 0, 1, 1},
    {DType::uint8, "uint8", 1, 'u', ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 0, UINT8_MAX, UINT8_MAX},
    {DType::uint16, "uint16", 2, 'u', ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, 0, UINT16_MAX, UINT16_MAX},
    {DType::uint32, "uint32", 4, 'u', ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, 0, UINT32_MAX, UINT32_MAX},
    {DType::uint64, "uint64", 8, 'u', ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, 0, UINT64_MAX, 18446744073709551615.0},
    {DType::int8, "int8", 1, 'i', ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, INT8_MIN, INT8_MAX, INT8_MAX},
    {DType::int16, "int16", 2, 'i', ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, INT16_MIN, INT16_MAX, INT16_MAX},
    {DType::int32, "int32", 4, 'i', ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, INT32_MIN, INT32_MAX, INT32_MAX},
    {DType::int64, "int64", 8, 'i', ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, INT64_MIN, INT64_MAX, 9223372036854775807.0},
    {DType::float16, "float16", 2, 'f', ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 0, 0, 65504},
    {DType::float32, "float32", 4, 'f', ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 0, 0, 3.4028234663852886e38},
    {DType::float64, "float64", 8, 'f', ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, 0, 0, 1.7976931348623157e308},
};

inline const DTypeRecord& record_of(DType dtype) { return dtype_records[static_cast<size_t>(dtype)]; }

// Nothing where no dtype is called so.
inline const DTypeRecord* dtype_named(std::string_view name) {
  for (const DTypeRecord& record : dtype_records) {
    if (name == record.name) return &record;
  }
  return nullptr;
}

inline const DTypeRecord* dtype_of_element(ONNXTensorElementDataType element) {
  for (const DTypeRecord& record : dtype_records) {
    if (element == record.element) return &record;
  }
  return nullptr;
}

// The dtype that an element of C++ has.
template <class Element>
constexpr DType dtype_of() {
  static_assert(std::is_arithmetic_v<Element>, "expected a type of numbers");
  if constexpr (std::is_same_v<Element, bool>)
    return DType::boolean;
  else if constexpr (std::is_floating_point_v<Element>)
    return sizeof(Element) == 4 ? DType::float32 : DType::float64;
  else if constexpr (std::is_signed_v<Element>)
    return sizeof(Element) == 1   ? DType::int8
           : sizeof(Element) == 2 ? DType::int16
           : sizeof(Element) == 4 ? DType::int32
                                  : DType::int64;
  else
    return sizeof(Element) == 1   ? DType::uint8
           : sizeof(Element) == 2 ? DType::uint16
           : sizeof(Element) == 4 ? DType::uint32
                                  : DType::uint64;
}

// Bits of the float16 nearest to a float64, of two equally near ones the even one.
inline uint16_t to_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7E00;
  if (size >= 65520.0) return sign | 0x7C00;
  if (size < 0x1p-14) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  int exponent = 0;
  const double fraction = std::frexp(size, &exponent);                                  // in [0.5, 1)
  const auto scaled = static_cast<uint32_t>(std::nearbyint(std::ldexp(fraction, 11)));  // 1024 to 2048
  return sign | static_cast<uint16_t>((static_cast<uint32_t>(exponent + 14) << 10) + (scaled - 1024));
}

inline double from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F;
  const int fraction = bits & 0x3FF;
  double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31)
    size = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  return bits & 0x8000 ? -size : size;
}

// A number as a dtype of fractions holds it; of other dtypes as it is.
inline double rounded(double value, DType dtype) {
  if (dtype == DType::float32) return static_cast<double>(static_cast<float>(value));
  if (dtype == DType::float16) return from_half(to_half(value));
  return value;
}

// Write a number as an element of a dtype; it has been checked to fit.
inline void store(double value, DType dtype, void* place) {
  const auto put = [place](auto element) { std::memcpy(place, &element, sizeof element); };
  switch (dtype) {
    case DType::boolean: put(static_cast<uint8_t>(value != 0)); break;
    case DType::uint8: put(static_cast<uint8_t>(value)); break;
    case DType::uint16: put(static_cast<uint16_t>(value)); break;
    case DType::uint32: put(static_cast<uint32_t>(value)); break;
    case DType::uint64: put(static_cast<uint64_t>(value)); break;
    case DType::int8: put(static_cast<int8_t>(value)); break;
    case DType::int16: put(static_cast<int16_t>(value)); break;
    case DType::int32: put(static_cast<int32_t>(value)); break;
    case DType::int64: put(static_cast<int64_t>(value)); break;
    case DType::float16: put(to_half(value)); break;
    case DType::float32: put(static_cast<float>(value)); break;
    case DType::float64: put(value); break;
  }
}

}  // namespace adaptrt
