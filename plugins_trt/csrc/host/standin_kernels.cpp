#include "standin_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace adaptrt::host {
namespace {

uint32_t bitsOf(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float fromBits(uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float fromHalf(uint16_t half) {
  uint32_t const sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  uint32_t const exponent = (half >> 10) & 0x1fU;
  uint32_t const mantissa = half & 0x3ffU;
  if (exponent == 31) {
    return fromBits(sign | 0x7f800000U | (mantissa << 13));
  }
  float const magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -24)
                              : std::ldexp(static_cast<float>(mantissa + 1024), static_cast<int>(exponent) - 25);
  return sign != 0 ? -magnitude : magnitude;
}

// To the nearest, ties to even.
uint16_t toHalf(float value) {
  uint16_t const sign = static_cast<uint16_t>((bitsOf(value) >> 16) & 0x8000U);
  float const magnitude = std::fabs(value);
  if (std::isnan(value)) {
    return static_cast<uint16_t>(sign | 0x7e00U);
  }
  if (magnitude >= 65520.0F) {
    return static_cast<uint16_t>(sign | 0x7c00U);
  }
  int exponent = -13;  // of zero, too: its unit is that of the subnormal numbers
  if (magnitude != 0) {
    std::frexp(magnitude, &exponent);
  }
  // One unit in the last place: 2^(exponent - 11), and 2^-24 among the subnormal numbers.
  int const unit = std::max(exponent - 11, -24);
  auto const steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(static_cast<double>(magnitude), -unit)));
  uint32_t const result = unit == -24 ? steps : (static_cast<uint32_t>(unit + 24) << 10) + steps;
  return static_cast<uint16_t>(sign | result);
}

uint16_t toBFloat(float value) {
  uint32_t const bits = bitsOf(value);
  if (std::isnan(value)) {
    return static_cast<uint16_t>((bits >> 16) | 0x40U);
  }
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// A tensor of reals, or of int8, behind a pointer.
class Reals {
 public:
  explicit Reals(Argument const& argument) : at_(argument.pointer), dtype_(argument.dtype) {}

  double operator[](int64_t index) const {
    if (dtype_ == "float32") {
      return static_cast<float const*>(at_)[index];
    }
    if (dtype_ == "int8") {
      return static_cast<int8_t const*>(at_)[index];
    }
    uint16_t const bits = static_cast<uint16_t const*>(at_)[index];
    return dtype_ == "float16" ? fromHalf(bits) : fromBits(static_cast<uint32_t>(bits) << 16);
  }

  void set(int64_t index, double value) {
    auto const single = static_cast<float>(value);
    if (dtype_ == "float32") {
      static_cast<float*>(at_)[index] = single;
    } else if (dtype_ == "int8") {
      static_cast<int8_t*>(at_)[index] = static_cast<int8_t>(single);
    } else {
      static_cast<uint16_t*>(at_)[index] = dtype_ == "float16" ? toHalf(single) : toBFloat(single);
    }
  }

  // The row's bytes, whatever they mean.
  void copyRow(int64_t row, Reals const& from, int64_t fromRow, int64_t width) {
    size_t const bytes = static_cast<size_t>(width) * (dtype_ == "float32" ? 4 : 2);
    std::memcpy(static_cast<char*>(at_) + static_cast<size_t>(row) * bytes,
                static_cast<char const*>(from.at_) + static_cast<size_t>(fromRow) * bytes, bytes);
  }

 private:
  void* at_;
  std::string dtype_;
};

// The arguments of one launch; a missing name throws out_of_range.
struct Given {
  Arguments const& all;
  int64_t size(char const* name) const { return all.at(name).value; }
  Reals reals(char const* name) const { return Reals(all.at(name)); }
  // One of a tensor's scales; 1 where the kernel takes none.
  double scale(std::string const& name, int64_t index) const {
    auto const found = all.find(name);
    return found == all.end() ? 1.0 : Reals(found->second)[index];
  }
  template <typename T>
  T* as(char const* name) const {
    return static_cast<T*>(all.at(name).pointer);
  }
};

void computeOrder(Given const& given) {
  int64_t const T = given.size("T");
  int64_t const N = given.size("N");
  auto const* const k = given.as<int32_t const>("k");
  auto* const order = given.as<int32_t>("order");
  auto* const running = given.as<int32_t>("running");
  auto const level = [&](int64_t t) { return std::clamp<int64_t>(k[t], 0, N); };
  std::vector<int32_t> tokens(static_cast<size_t>(T));
  std::iota(tokens.begin(), tokens.end(), 0);
  std::stable_sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) { return level(a) > level(b); });
  std::copy(tokens.begin(), tokens.end(), order);
  for (int64_t n = 0; n < N; ++n) {
    running[n] =
        static_cast<int32_t>(std::count_if(tokens.begin(), tokens.end(), [&](int32_t t) { return level(t) > n; }));
  }
}

// The activations of the ops' table, written apart from it.
double activate(std::string const& name, double z) {
  double const pi = std::acos(-1.0);
  auto const logistic = [](double value) { return 1 / (1 + std::exp(-value)); };
  static std::map<std::string, int> const places{
      {"gelu", 0}, {"gelu_tanh", 1}, {"quick_gelu", 2}, {"relu", 3}, {"silu", 4}};
  switch (places.at(name)) {
    case 0: return 0.5 * z * (1 + std::erf(z / std::sqrt(2.0)));
    case 1: return 0.5 * z * (1 + std::tanh(std::sqrt(2 / pi) * (z + 0.044715 * z * z * z)));
    case 2: return z * logistic(1.702 * z);
    case 3: return z > 0 ? z : 0;
    default: return z * logistic(z);
  }
}

// The nearest whole number of steps that a byte holds, of two the even one.
double steps(double value, double scale) { return std::clamp(std::nearbyint(value / scale), -128.0, 127.0); }

// One learner's first layer for one token: the sum over d of x[token, d] * weight[n, d, j], and bias[n, j].
double linear(Given const& given, char const* weight, char const* bias, int64_t token, int64_t n, int64_t j) {
  int64_t const D = given.size("D");
  int64_t const h = given.size("h");
  Reals const x = given.reals("x");
  Reals const w = given.reals(weight);
  bool const isFixed = given.all.count("x_scale") != 0;
  double const step = given.scale("x_scale", 0);
  double sum = 0;
  for (int64_t d = 0; d < D; ++d) {
    double const one = x[token * D + d];
    sum += (isFixed ? steps(one, step) : one) * w[(n * D + d) * h + j];
  }
  return given.reals(bias)[n * h + j] + sum * step * given.scale(std::string(weight) + "_scale", n * h + j);
}

// hidden of both up-projections; factor is what an activation is multiplied by.
template <typename Factor>
void fillHidden(Given const& given, Factor const& factor) {
  int64_t const T = given.size("T");
  int64_t const N = given.size("N");
  int64_t const h = given.size("h");
  std::string const activation = given.all.at("ACTIVATION").dtype;
  Reals hidden = given.reals("hidden");
  auto const* const order = given.as<int32_t const>("order");
  auto const* const running = given.as<int32_t const>("running");
  bool const isFixed = given.all.count("hidden_scale") != 0;
  for (int64_t n = 0; n < N; ++n) {
    double const step = given.scale("hidden_scale", n);
    for (int64_t p = 0; p < std::min<int64_t>(running[n], T); ++p) {
      for (int64_t j = 0; j < h; ++j) {
        double const active = activate(activation, linear(given, "w1", "b1", order[p], n, j));
        double const result = active * factor(order[p], n, j);
        hidden.set(p * N * h + n * h + j, isFixed ? steps(result, step) : result);
      }
    }
  }
}

void computeUp(Given const& given) {
  fillHidden(given, [](int64_t, int64_t, int64_t) { return 1.0; });
}

void computeGatedUp(Given const& given) {
  fillHidden(given, [&](int64_t token, int64_t n, int64_t j) { return linear(given, "v1", "c1", token, n, j); });
}

void computeDown(Given const& given) {
  int64_t const T = given.size("T");
  int64_t const N = given.size("N");
  int64_t const h = given.size("h");
  int64_t const E = given.size("E");
  Reals const hidden = given.reals("hidden");
  Reals const w2 = given.reals("w2");
  Reals const b2 = given.reals("b2");
  Reals y = given.reals("y");
  auto const* const order = given.as<int32_t const>("order");
  auto const* const running = given.as<int32_t const>("running");
  for (int64_t p = 0; p < T; ++p) {
    for (int64_t e = 0; e < E; ++e) {
      double sum = b2[e];
      for (int64_t n = 0; n < N && p < running[n]; ++n) {
        double part = 0;
        for (int64_t j = 0; j < h; ++j) {
          part += hidden[p * N * h + n * h + j] * w2[(n * h + j) * E + e];
        }
        sum += part * given.scale("hidden_scale", n) * given.scale("w2_scale", n * E + e);
      }
      y.set(order[p] * E + e, sum);
    }
  }
}

void computeSelection(Given const& given) {
  int64_t const B = given.size("B");
  int64_t const T = given.size("T");
  int64_t const D = given.size("D");
  bool const limited = given.size("limits") != 0;
  Reals const x = given.reals("x");
  Reals y = given.reals("y");
  auto const* const score = given.as<float const>("score");
  auto const* const valid = given.as<uint8_t const>("valid");
  auto const* const forced = given.as<uint8_t const>("forced");
  auto const* const threshold = given.as<float const>("threshold");
  auto* const index = given.as<int32_t>("index");
  auto* const count = given.as<int32_t>("count");
  for (int64_t b = 0; b < B; ++b) {
    std::vector<int64_t> tokens;
    int64_t wanted = 0;
    for (int64_t t = b * T; t < (b + 1) * T; ++t) {
      if (valid[t] != 0) {
        tokens.push_back(t);
        wanted += forced[t] != 0 || score[t] > threshold[b] ? 1 : 0;
      }
    }
    auto const before = [&](int64_t left, int64_t right) {
      if ((forced[left] != 0) != (forced[right] != 0)) {
        return forced[left] != 0;
      }
      if (std::isnan(score[left]) != std::isnan(score[right])) {
        return !std::isnan(score[left]);
      }
      return !std::isnan(score[left]) && score[left] > score[right];
    };
    int64_t kept = wanted;
    if (limited) {
      kept = std::max(kept, *given.as<int64_t const>("keep_min"));
      kept = std::min({kept, *given.as<int64_t const>("keep_max"), static_cast<int64_t>(tokens.size())});
      kept = std::max<int64_t>(kept, 0);
    }
    std::stable_sort(tokens.begin(), tokens.end(), before);
    tokens.resize(static_cast<size_t>(kept));
    std::sort(tokens.begin(), tokens.end());
    count[b] = static_cast<int32_t>(kept);
    for (int64_t place = 0; place < T; ++place) {
      bool const real = place < kept;
      int64_t const from = real ? tokens[static_cast<size_t>(place)] : 0;
      index[b * T + place] = real ? static_cast<int32_t>(from - b * T) : 0;
      if (real) {
        y.copyRow(b * T + place, x, from, D);
      } else {
        for (int64_t d = 0; d < D; ++d) {
          y.set((b * T + place) * D + d, 0);
        }
      }
    }
  }
}

}  // namespace

bool compute(std::string const& entry, Arguments const& arguments) {
  static std::map<std::string, void (*)(Given const&)> const kernels{{"conditional_mlp_order", computeOrder},
                                                                     {"conditional_mlp_up", computeUp},
                                                                     {"conditional_glu_up", computeGatedUp},
                                                                     {"conditional_mlp_down", computeDown},
                                                                     {"select_tokens", computeSelection}};
  auto const known = kernels.find(entry);
  if (known == kernels.end()) {
    return false;
  }
  try {
    known->second({arguments});
  } catch (std::out_of_range const&) {
    return false;
  }
  return true;
}

}  // namespace adaptrt::host
