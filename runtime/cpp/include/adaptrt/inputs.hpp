// Checks what a caller feeds against what the bundle declares, before the engine sees a byte.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "adaptrt/bundle/curve_validation.hpp"
#include "adaptrt/expected.hpp"
#include "adaptrt/tensor.hpp"

namespace adaptrt {

// The sizes of all named axes of the inputs, by their numbers in `AxisNames`; -1 where nothing has been fed.
using AxisSizes = std::vector<int64_t>;

class AxisNames {
 public:
  explicit AxisNames(const bundle::Bundle& bundle) {
    for (const auto& [name, axis] : bundle.axes) number_.emplace(name, static_cast<int>(number_.size()));
  }
  size_t size() const { return number_.size(); }
  // -1 for an axis that no input has.
  int of(const std::string& name) const {
    const auto found = number_.find(name);
    return found == number_.end() ? -1 : found->second;
  }

 private:
  std::map<std::string, int> number_;
};

[[noreturn]] inline void refuse_input(const std::string& message) { throw Failure(ErrorKind::input, message); }

namespace inputs {

// The first element for which `wrong` holds, or -1.
template <class Element, class Wrong>
int64_t first(const void* data, int64_t count, Wrong wrong) {
  const auto* elements = static_cast<const Element*>(data);
  for (int64_t i = 0; i < count; ++i) {
    if (wrong(elements[i])) return i;
  }
  return -1;
}

// Infinity and NaN have all bits of the exponent set; looked at as bits, whatever the compiler may assume of floats.
template <class Bits>
int64_t first_not_finite(const void* data, int64_t count, Bits exponent) {
  const auto* bits = static_cast<const Bits*>(data);
  constexpr int64_t block = 1024;  // without an end in sight it is done for many at once
  for (int64_t start = 0; start < count; start += block) {
    const int64_t stop = std::min(count, start + block);
    bool any = false;
    for (int64_t i = start; i < stop; ++i) any |= (bits[i] & exponent) == exponent;
    if (any)
      return start + first<Bits>(bits + start, stop - start, [&](Bits one) { return (one & exponent) == exponent; });
  }
  return -1;
}

template <class Element>
int64_t first_outside(const TensorView& array, const bundle::TensorSpec& spec) {
  const auto number = [](const bundle::Limit& limit) {
    return static_cast<Element>(limit.negative ? ~limit.size + 1 : limit.size);
  };
  const Element least = number(*spec.minimum), most = number(*spec.maximum);
  return first<Element>(array.data, array.size(), [&](Element one) { return one < least || one > most; });
}

// The place of the first value that the model does not take, or -1.
inline int64_t first_wrong(const TensorView& array, const bundle::TensorSpec& spec) {
  const int64_t count = array.size();
  switch (array.dtype) {
    case DType::boolean: return first<uint8_t>(array.data, count, [](uint8_t byte) { return byte > 1; });
    case DType::uint8: return first_outside<uint8_t>(array, spec);
    case DType::uint16: return first_outside<uint16_t>(array, spec);
    case DType::uint32: return first_outside<uint32_t>(array, spec);
    case DType::uint64: return first_outside<uint64_t>(array, spec);
    case DType::int8: return first_outside<int8_t>(array, spec);
    case DType::int16: return first_outside<int16_t>(array, spec);
    case DType::int32: return first_outside<int32_t>(array, spec);
    case DType::int64: return first_outside<int64_t>(array, spec);
    case DType::float16: return first_not_finite<uint16_t>(array.data, count, 0x7C00);
    case DType::float32: return first_not_finite<uint32_t>(array.data, count, 0x7F800000);
    case DType::float64: return first_not_finite<uint64_t>(array.data, count, 0x7FF0000000000000);
  }
  return -1;
}

inline std::string element_text(const TensorView& array, int64_t place) {
  const auto get = [&](auto zero) {
    std::memcpy(&zero, static_cast<const char*>(array.data) + static_cast<size_t>(place) * sizeof zero, sizeof zero);
    return zero;
  };
  switch (array.dtype) {
    case DType::boolean:
    case DType::uint8: return std::to_string(get(uint8_t{}));
    case DType::uint16: return std::to_string(get(uint16_t{}));
    case DType::uint32: return std::to_string(get(uint32_t{}));
    case DType::uint64: return std::to_string(get(uint64_t{}));
    case DType::int8: return std::to_string(get(int8_t{}));
    case DType::int16: return std::to_string(get(int16_t{}));
    case DType::int32: return std::to_string(get(int32_t{}));
    case DType::int64: return std::to_string(get(int64_t{}));
    case DType::float16: return text::number(from_half(get(uint16_t{})));
    case DType::float32: return text::number(static_cast<double>(get(float{})));
    case DType::float64: return text::number(get(double{}));
  }
  return "";
}

// Such as `[2, 0]`.
inline std::string place_text(const TensorView& array, int64_t place) {
  Shape index(array.shape.size());
  for (size_t axis = index.size(); axis-- > 0;) {
    index[axis] = place % array.shape[axis];
    place /= array.shape[axis];
  }
  return shown(index);
}

}  // namespace inputs

// The inputs of a bundle, knobs excluded; any number of threads may use one.
class InputContract {
 public:
  InputContract(const bundle::Bundle& bundle, const AxisNames& axes) : axes_(axes.size()) {
    for (const bundle::TensorSpec& spec : bundle.inputs) {
      Expected one{spec, dtype_named(spec.dtype)->dtype, {}};
      for (const bundle::Size& size : spec.shape) {
        const auto* name = std::get_if<std::string>(&size);
        if (name)
          one.axes.push_back({axes.of(*name), *name, bundle.axes.at(*name)});
        else
          one.axes.push_back({-1, "", {std::get<int64_t>(size), std::get<int64_t>(size)}});
      }
      expected_.push_back(std::move(one));
    }
  }

  // Check every array; gives them in the bundle's order, and the sizes of all named axes. Throws `Failure`.
  void check(const std::vector<NamedView>& given, std::vector<const TensorView*>& arrays, AxisSizes& sizes) const {
    arrays.clear();
    sizes.assign(axes_, -1);
    for (size_t i = 0; i < expected_.size(); ++i) {
      const Expected& expected = expected_[i];
      const NamedView* found = i < given.size() && given[i].name == expected.spec.name ? &given[i] : nullptr;
      for (size_t j = 0; j < given.size() && !found; ++j) {
        if (given[j].name == expected.spec.name) found = &given[j];
      }
      if (!found) refuse_names(given);
      const TensorView& array = found->array;
      check_shape(expected, array);
      for (size_t axis = 0; axis < expected.axes.size(); ++axis) {
        const ExpectedAxis& named = expected.axes[axis];
        if (named.number < 0) continue;
        int64_t& size = sizes[static_cast<size_t>(named.number)];
        if (size < 0) size = array.shape[axis];
        if (size != array.shape[axis]) {
          refuse_input("input " + text::quoted(expected.spec.name) + ": " + named.name + " is " +
                       std::to_string(array.shape[axis]) + ", expected " + std::to_string(size) +
                       " as in the inputs before it; feed arrays with the same " + named.name);
        }
      }
      if (!array.data && array.size() > 0) {
        refuse_input("input " + text::quoted(expected.spec.name) + ": got no memory, expected " + wanted(expected) +
                     "; pass its address");
      }
      const int64_t wrong = inputs::first_wrong(array, expected.spec);
      if (wrong >= 0) refuse_value(expected, array, wrong);
      arrays.push_back(&array);
    }
    if (given.size() != expected_.size()) refuse_names(given);
  }

 private:
  struct ExpectedAxis {
    int number;  // of a named one; -1 of a fixed size
    std::string name;
    bundle::Axis limits;
  };
  struct Expected {
    bundle::TensorSpec spec;
    DType dtype;
    std::vector<ExpectedAxis> axes;
  };

  static std::string wanted(const Expected& expected) {
    std::string shape;
    for (const bundle::Size& size : expected.spec.shape) {
      const auto* name = std::get_if<std::string>(&size);
      shape += (shape.empty() ? "" : ", ") + (name ? *name : std::to_string(std::get<int64_t>(size)));
    }
    return expected.spec.dtype + " [" + shape + "]";
  }

  void check_shape(const Expected& expected, const TensorView& array) const {
    bool fine = array.dtype == expected.dtype && array.shape.size() == expected.axes.size();
    for (size_t axis = 0; fine && axis < expected.axes.size(); ++axis) {
      if (expected.axes[axis].number < 0) fine = array.shape[axis] == expected.axes[axis].limits.shortest;
    }
    const std::string where = fine ? "" : "input " + text::quoted(expected.spec.name) + ": got ";
    if (!fine) {
      const std::string remedy = array.dtype != expected.dtype ? std::string("convert it to ") + expected.spec.dtype
                                 : array.shape.size() + 1 == expected.axes.size()
                                     ? std::string("add the missing axis, for one sample of size 1")
                                     : std::string("reshape or resize it to that");
      refuse_input(where + record_of(array.dtype).name + " " + shown(array.shape) + ", expected " + wanted(expected) +
                   "; " + remedy);
    }
    for (size_t axis = 0; axis < expected.axes.size(); ++axis) {
      const ExpectedAxis& named = expected.axes[axis];
      const int64_t size = array.shape[axis], longest = named.limits.longest.value_or(INT64_MAX);
      if (size >= named.limits.shortest && size <= longest) continue;
      const std::string limits = named.limits.longest
                                     ? std::to_string(named.limits.shortest) + " to " + std::to_string(longest)
                                     : "at least " + std::to_string(named.limits.shortest);
      refuse_input("input " + text::quoted(expected.spec.name) + ": got " + shown(array.shape) + ", where " +
                   named.name + " is " + std::to_string(size) + ", expected " + limits + "; " +
                   (size > longest ? "cut it" : "give more"));
    }
  }

  [[noreturn]] static void refuse_value(const Expected& expected, const TensorView& array, int64_t place) {
    const std::string where = "input " + text::quoted(expected.spec.name) + ": got ";
    const std::string value = inputs::element_text(array, place), at = " at " + inputs::place_text(array, place);
    const char kind = record_of(array.dtype).kind;
    if (kind == 'f') {
      refuse_input(
          where + value + at +
          ", expected finite numbers; look where it comes from, or put a value in its place that the model knows");
    }
    if (kind == 'b')
      refuse_input(where + "a boolean whose byte is " + value + at + ", expected 0 or 1; write one of these");
    refuse_input(where + value + at + ", expected " + expected.spec.minimum->text() + " to " +
                 expected.spec.maximum->text() +
                 "; feed numbers in that range, such as the model's own tokenizer gives");
  }

  [[noreturn]] void refuse_names(const std::vector<NamedView>& given) const {
    std::vector<std::string> got, names;
    for (const NamedView& one : given) got.push_back(text::quoted(one.name));
    for (const Expected& expected : expected_) names.push_back(text::quoted(expected.spec.name));
    refuse_input("inputs: got " + text::joined(got, "none", 10) + ", expected exactly " + text::joined(names) +
                 "; rename, add or leave out (knobs go in `knobs`)");
  }

  size_t axes_;
  std::vector<Expected> expected_;
};

namespace knob_values {

inline void check_number(const bundle::Knob& knob, double number) {
  const DTypeRecord& record = *dtype_named(knob.dtype);
  const std::string where = "knob " + text::quoted(knob.name) + ": got ";
  if (record.kind == 'f' && record.largest < std::fabs(number) && std::fabs(number) < bundle::infinity) {
    refuse_input(where + text::number(number) + ", expected a number that " + knob.dtype +
                 " can hold, or infinity; pass that");
  }
  if (!(knob.minimum <= number && number <= knob.maximum)) {
    const int64_t size = bundle::size_of(knob);
    refuse_input(where + text::number(number) + ", expected " +
                 (size == 1 ? "a number" : "a number, or " + std::to_string(size) + " of them,") + " from " +
                 text::digits(knob.minimum) + " to " + text::digits(knob.maximum) + "; pass that");
  }
  if (record.kind != 'f' && number != std::floor(number)) {
    refuse_input(where + text::number(number) + ", expected a whole number (" + knob.dtype + "); round it");
  }
}

// Check values of knobs, and give one for every knob: those that are not named stand at their defaults.
inline bundle::KnobValues complete(const std::vector<bundle::Knob>& knobs, const bundle::KnobValues& values) {
  bundle::KnobValues all;
  for (const auto& [name, value] : values) {
    bool known = false;
    std::vector<std::string> names;
    for (const bundle::Knob& knob : knobs) {
      known |= knob.name == name;
      names.push_back(text::quoted(knob.name));
    }
    if (!known)
      refuse_input("knobs: got " + text::quoted(name) + ", expected some of " + text::joined(names) +
                   "; `adaptrt inspect` lists them");
  }
  for (const bundle::Knob& knob : knobs) {
    const auto given = values.find(knob.name);
    const bundle::KnobValue value = given == values.end() ? bundle::KnobValue(knob.default_value) : given->second;
    if (const auto* list = std::get_if<std::vector<double>>(&value)) {
      const int64_t size = bundle::size_of(knob);
      if (static_cast<int64_t>(list->size()) != size) {
        refuse_input("knob " + text::quoted(knob.name) + ": got " + std::to_string(list->size()) +
                     " values, expected " + std::to_string(size) + ", or one number for all of them");
      }
      for (const double number : *list) check_number(knob, number);
    } else {
      check_number(knob, std::get<double>(value));
    }
    all[knob.name] = value;
  }
  return all;
}

}  // namespace knob_values

}  // namespace adaptrt
