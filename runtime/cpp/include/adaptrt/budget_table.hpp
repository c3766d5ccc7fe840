// Looking a budget up in a bundle's table; docs/bundle_format.md, "From a budget to knobs".
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "adaptrt/bundle/schema.hpp"
#include "adaptrt/dtype.hpp"

namespace adaptrt {

// What a budget comes to: values of all knobs, the share of work and the quality to expect, whether it is met.
struct Answer {
  bundle::KnobValues knobs;
  double work = 0;
  std::optional<double> quality;
  bool reachable = true;
};

namespace budget_table {

// The next float of a dtype in a direction.
inline double neighbour(double value, double towards, DType dtype) {
  if (value == towards) return value;
  if (dtype == DType::float64) return std::nextafter(value, towards);
  if (dtype == DType::float32)
    return static_cast<double>(std::nextafterf(static_cast<float>(value), static_cast<float>(towards)));
  if (value == 0) return std::copysign(from_half(1), towards);
  const uint16_t bits = to_half(value);  // away from zero is one bit more, whatever the sign
  return from_half(static_cast<uint16_t>((value > 0) == (towards > value) ? bits + 1 : bits - 1));
}

inline double move(double near, double far, double way, DType dtype) {
  if (std::isinf(near) || std::isinf(far)) return near;
  if (record_of(dtype).kind != 'f') {
    const double whole = std::floor(near + way * (far - near) + 1e-12);
    return far > near ? std::min(whole, far - 1) : whole;
  }
  const double start = rounded(near, dtype), end = rounded(far, dtype);
  const double exact = start + way * (end - start);
  double value = rounded(std::min(std::max(exact, std::min(start, end)), std::max(start, end)), dtype);
  if ((value - exact) * (end - start) > 0 || value == end) value = neighbour(value, start, dtype);
  return value == start ? near : value;
}

inline bundle::KnobValue between(const bundle::KnobValue& near, const bundle::KnobValue& far, double way, DType dtype) {
  const auto *nears = std::get_if<std::vector<double>>(&near), *fars = std::get_if<std::vector<double>>(&far);
  if (!nears && !fars) return move(std::get<double>(near), std::get<double>(far), way, dtype);
  const size_t size = nears ? nears->size() : fars->size();
  bool moved = false;
  std::vector<double> values(size);
  for (size_t i = 0; i < size; ++i) {
    const double start = nears ? (*nears)[i] : std::get<double>(near), end = fars ? (*fars)[i] : std::get<double>(far);
    values[i] = move(start, end, way, dtype);
    moved |= values[i] != start;
  }
  return moved ? bundle::KnobValue(std::move(values)) : near;
}

}  // namespace budget_table

// The answer to a budget of a share of the dense work; the first of the rows begins at 0.
inline Answer look_up(const std::vector<bundle::BudgetRow>& rows, double share,
                      const std::map<std::string, DType>& dtypes) {
  const auto after = std::upper_bound(rows.begin(), rows.end(), share,
                                      [](double one, const bundle::BudgetRow& row) { return one < row.fraction; });
  const bundle::BudgetRow& row = *std::prev(after);
  Answer near{row.knobs, row.work, row.quality, row.work <= share};
  if (!row.to || share < row.work) return near;
  const double way = std::min((share - row.work) / (row.to->work - row.work), 1.0 - 0x1p-53);
  bundle::KnobValues knobs;
  for (const auto& [name, value] : row.knobs)
    knobs.emplace(name, budget_table::between(value, row.to->knobs.at(name), way, dtypes.at(name)));
  if (knobs == row.knobs) return near;
  std::optional<double> quality;
  if (row.quality && row.to->quality) quality = *row.quality + way * (*row.to->quality - *row.quality);
  return {std::move(knobs), share, quality, true};
}

}  // namespace adaptrt
