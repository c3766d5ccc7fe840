// What a tensor that a bundle describes must satisfy.
#pragma once

#include <set>
#include <string>

#include "adaptrt/bundle/expectations.hpp"
#include "adaptrt/dtype.hpp"

namespace adaptrt::bundle {

inline constexpr size_t max_rank = 16;
inline constexpr int64_t max_size = 2147483647;

inline void expect_dtype(const std::string& where, const std::string& dtype) {
  expect(
      dtype_named(dtype) != nullptr, [&] { return where + ": dtype " + text::brief(dtype); },
      [] {
        std::vector<std::string> names;
        for (const DTypeRecord& record : dtype_records) names.emplace_back(record.name);
        return "one of " + text::joined(names);
      });
}

inline void expect_rank(const std::string& where, size_t rank) {
  expect(
      rank <= max_rank, [&] { return where + ": " + std::to_string(rank) + " axes"; },
      [] { return "at most " + std::to_string(max_rank); });
}

// A dtype, and a shape of sizes and names of axes.
inline void check_array(const std::string& where, const std::string& dtype, const Sizes& shape) {
  expect_dtype(where, dtype);
  expect_rank(where, shape.size());
  for (const Size& size : shape) {
    if (const auto* name = std::get_if<std::string>(&size)) {
      expect_text(where + " axis name", *name);
    } else {
      const int64_t number = std::get<int64_t>(size);
      expect(
          number >= 1 && number <= max_size, [&] { return where + ": size " + std::to_string(number); },
          [] { return "1 to " + std::to_string(max_size); });
    }
  }
}

inline std::string listed(const std::set<std::string>& names) {
  std::vector<std::string> each;
  for (const std::string& name : names) each.push_back(text::brief(name));
  return text::joined(each, "none", 10);
}

// The name of the axis that counts samples; nothing where their number is fixed. `macs_fraction` has been checked.
inline std::optional<std::string> batch_axis(const Bundle& bundle) {
  for (const TensorSpec& spec : bundle.outputs) {
    if (spec.name != macs_output) continue;
    const auto* name = std::get_if<std::string>(&spec.shape[0]);
    return name ? std::optional<std::string>(*name) : std::nullopt;
  }
  return std::nullopt;
}

// The limits of an input: where it takes whole numbers, it says which.
inline void check_limits(const std::string& where, const TensorSpec& spec) {
  const DTypeRecord& record = *dtype_named(spec.dtype);
  const auto got = [&] {
    return where + ": minimum " + shown(spec.minimum) + ", maximum " + shown(spec.maximum) + " of " + spec.dtype;
  };
  if (record.kind != 'i' && record.kind != 'u') {
    expect(!spec.minimum && !spec.maximum, got, "limits of whole numbers only");
    return;
  }
  const Limit least{record.least < 0, record.least < 0 ? ~static_cast<uint64_t>(record.least) + 1 : 0};
  const Limit most{false, record.most};
  const bool fine = spec.minimum && spec.maximum && !(*spec.minimum < least) && !(*spec.maximum < *spec.minimum) &&
                    !(most < *spec.maximum);
  expect(fine, got, [&] { return "both, " + least.text() + " <= minimum <= maximum <= " + most.text(); });
}

// Every named axis of the inputs says how long it may be; all but the batch have an end.
inline void check_axes(const Bundle& bundle) {
  std::set<std::string> named, given;
  for (const TensorSpec& spec : bundle.inputs) {
    for (const Size& size : spec.shape) {
      if (const auto* name = std::get_if<std::string>(&size)) named.insert(*name);
    }
  }
  for (const auto& [name, axis] : bundle.axes) given.insert(name);
  expect(
      given == named, [&] { return "axes: " + listed(given); },
      [&] { return "exactly those of the inputs, " + listed(named); });
  const std::optional<std::string> batch = batch_axis(bundle);
  for (const auto& [name, axis] : bundle.axes) {
    const auto where = [&name = name] { return "axes " + text::brief(name); };
    expect(
        axis.longest || batch == name, [&] { return where() + ": no longest"; },
        "how long it may be, as it is not the batch");
    const int64_t longest = axis.longest.value_or(max_size);
    const bool fine = 0 <= axis.shortest && axis.shortest <= longest && longest <= max_size && longest >= 1;
    expect(
        fine,
        [&, &axis = axis] { return where() + ": " + std::to_string(axis.shortest) + " to " + std::to_string(longest); },
        [] { return "sizes from 0 to " + std::to_string(max_size) + ", in order"; });
  }
}

}  // namespace adaptrt::bundle
