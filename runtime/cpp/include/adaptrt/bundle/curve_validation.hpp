// What the calibrated points of a bundle and its table of budgets must satisfy.
#pragma once

#include <cmath>
#include <map>
#include <string>

#include "adaptrt/bundle/tensor_validation.hpp"

namespace adaptrt::bundle {

inline constexpr size_t max_curve_points = 10'000;
inline constexpr double max_fraction = 100.0;  // more work than that is a mistake in the file
inline constexpr size_t max_rows = 4 * max_curve_points;

using KnobsByName = std::map<std::string, const Knob*>;

inline KnobsByName by_name(const Bundle& bundle) {
  KnobsByName knobs;
  for (const Knob& knob : bundle.knobs) knobs[knob.name] = &knob;
  return knobs;
}

inline int64_t size_of(const Knob& knob) {
  int64_t size = 1;
  for (const int64_t axis : knob.shape) size *= axis;
  return size;
}

template <class Value>
std::string names_of(const std::map<std::string, Value>& entries, size_t most = SIZE_MAX) {
  std::vector<std::string> names;
  for (const auto& [name, value] : entries) names.push_back(name);
  return "[" + quoted_list(names, most) + "]";
}

// A number for all elements of a knob, or a list with one for each.
inline void check_knob_value(const std::string& where, const KnobValue& value, const Knob& knob) {
  const DTypeRecord& record = *dtype_named(knob.dtype);
  const auto* list = std::get_if<std::vector<double>>(&value);
  if (list) {
    expect(
        static_cast<int64_t>(list->size()) == size_of(knob),
        [&] { return where + " of " + std::to_string(list->size()) + " values"; },
        [&] { return std::to_string(size_of(knob)) + ", or one number for all"; });
  }
  const auto check = [&](double number) {
    const bool held = record.kind != 'f' || number == infinity || std::fabs(number) <= record.largest;
    expect(
        knob.minimum <= number && number <= knob.maximum && number > -infinity && held,
        [&] { return where + " " + text::number(number); },
        [&] { return text::number(knob.minimum) + " to " + text::number(knob.maximum); });
    expect(
        record.kind == 'f' || number == std::floor(number), [&] { return where + " " + text::number(number); },
        [&] { return "a whole number (" + knob.dtype + ")"; });
  };
  if (!list)
    check(std::get<double>(value));
  else
    for (const double number : *list) check(number);
}

namespace curve {

inline void check_share(const std::string& where, const std::optional<double>& share) {
  expect(
      !share || (0 <= *share && *share <= max_fraction),
      [&] { return where + ": share " + text::number(*share) + " of the dense work"; }, "0 to 100");
}

inline void check_point(const std::string& where, const CurvePoint& point, const KnobsByName& knobs) {
  for (const auto& [name, value] : point.knobs) {
    const auto knob = knobs.find(name);
    expect(
        knob != knobs.end(), [&, &name = name] { return where + ": unknown knob " + text::brief(name); },
        [&] { return "one of " + names_of(knobs); });
    check_knob_value(where + ": " + name, value, *knob->second);
  }
  check_share(where, point.macs_fraction);
  check_share(where, point.calibration_macs_fraction);
  expect_finite(where + " quality", point.quality);
  expect_finite(where + " quality", point.calibration_quality);
  const auto& error = point.calibration_error;
  expect(
      !error || (0 <= *error && *error < infinity),
      [&] { return where + " calibration_error " + text::number(*error); }, "a finite number, 0 or more");
  if (!point.setting.empty()) expect_text(where + " setting", point.setting);
}

// Which elements are below 0; one answer where it is the same for all.
inline std::vector<bool> below_zero(const KnobValue& value) {
  const auto* list = std::get_if<std::vector<double>>(&value);
  if (!list) return {std::get<double>(value) < 0};
  std::vector<bool> signs;
  for (const double number : *list) signs.push_back(number < 0);
  const bool alike = std::adjacent_find(signs.begin(), signs.end(), std::not_equal_to<>()) == signs.end();
  if (alike && !signs.empty()) signs.resize(1);
  return signs;
}

// Refuse chains along which a knob goes from off to on: there is nothing between the two.
inline void check_chains(const Bundle& bundle) {
  struct First {
    size_t number;
    std::map<std::string, std::vector<bool>> off;
  };
  std::map<std::pair<bool, std::string>, First> seen;
  for (size_t i = 0; i < bundle.curve.size(); ++i) {
    const CurvePoint& point = bundle.curve[i];
    if (point.setting.empty() || point.setting.rfind(snapping_setting, 0) == 0) continue;
    First one{i, {}};
    for (const Knob& knob : bundle.knobs) {
      if (knob.name != token_price_knob && dtype_named(knob.dtype)->kind != 'i') continue;
      const auto value = point.knobs.find(knob.name);
      one.off[knob.name] = below_zero(value == point.knobs.end() ? KnobValue(knob.default_value) : value->second);
    }
    const First& first = seen.try_emplace({point.hard, point.setting}, one).first->second;
    for (const auto& [name, off] : one.off) {
      expect(
          off == first.off.at(name),
          [&, &name = name] {
            return "curve[" + std::to_string(i) + "]: " + name +
                   " is on where it was off, or the other way round, in curve[" + std::to_string(first.number) +
                   "] of the same setting " + text::brief(point.setting);
          },
          "a chain that keeps it as it is");
    }
  }
}

}  // namespace curve

inline void check_curve(const Bundle& bundle) {
  const KnobsByName knobs = by_name(bundle);
  for (size_t i = 0; i < bundle.curve.size(); ++i)
    curve::check_point("curve[" + std::to_string(i) + "]", bundle.curve[i], knobs);
  curve::check_chains(bundle);
}

namespace table {

inline void check_point(const std::string& where, const BudgetPoint& point, const KnobsByName& knobs) {
  expect(
      0 <= point.work && point.work <= max_fraction, [&] { return where + ": work " + text::number(point.work); },
      "0 to 100");
  expect_finite(where + " quality", point.quality);
  const bool same =
      point.knobs.size() == knobs.size() && std::equal(point.knobs.begin(), point.knobs.end(), knobs.begin(),
                                                       [](const auto& a, const auto& b) { return a.first == b.first; });
  expect(
      same, [&] { return where + ": knobs " + names_of(point.knobs, 10); },
      [&] { return "exactly " + names_of(knobs); });
  for (const auto& [name, value] : point.knobs) check_knob_value(where + ": " + name, value, *knobs.at(name));
}

inline void check_rows(const std::string& where, const std::vector<BudgetRow>& rows, const KnobsByName& knobs) {
  using text::number;
  for (size_t i = 0; i < rows.size(); ++i) {
    const BudgetRow& row = rows[i];
    const std::string place = where + "[" + std::to_string(i) + "]";
    const auto got = [&] { return place + ": fraction " + number(row.fraction); };
    check_point(place, row, knobs);
    expect(0 <= row.fraction && row.fraction <= max_fraction, got, "0 to 100");
    if (i == 0)
      expect(row.fraction == 0, got, "0 in the first row");
    else
      expect(
          row.work <= row.fraction,
          [&] { return place + ": work " + number(row.work) + " from a share of " + number(row.fraction); },
          "at most that share");
    if (row.to) {
      check_point(place + " to", *row.to, knobs);
      expect(
          row.work < row.to->work && i + 1 < rows.size(),
          [&] { return place + ": a line from " + number(row.work) + " to " + number(row.to->work); },
          "more work at its end, and a row behind it");
    }
  }
  for (size_t i = 1; i < rows.size(); ++i) {
    const BudgetRow &before = rows[i - 1], &row = rows[i];
    const auto got = [&] { return where + "[" + std::to_string(i) + "]: fraction " + number(row.fraction); };
    expect(before.fraction < row.fraction, got,
           [&] { return "more than the " + number(before.fraction) + " of the row before"; });
    if (before.to)
      expect(row.fraction <= before.to->work, got,
             [&] { return "at most " + number(before.to->work) + ", where the line before it ends"; });
  }
}

}  // namespace table

// The table by itself. Whether it agrees with the curve takes a solver, which this runtime does not have.
inline void check_budget_table(const Bundle& bundle) {
  if (!bundle.budget_table) return;
  expect(!bundle.curve.empty(), "budget_table: without points of the curve", "none");
  const KnobsByName knobs = by_name(bundle);
  for (const bool hard : {false, true}) {
    const char* name = hard ? "hard" : "soft";
    const std::vector<BudgetRow>& rows = hard ? bundle.budget_table->hard : bundle.budget_table->soft;
    size_t points = 0;
    for (const CurvePoint& point : bundle.curve) points += point.hard == hard;
    const size_t least = points ? 1 : 0, most = points ? max_rows : 0;
    expect(
        least <= rows.size() && rows.size() <= most,
        [&] {
          return std::string("budget_table ") + name + ": " + std::to_string(rows.size()) + " rows with " +
                 std::to_string(points) + " " + name + " points";
        },
        [&] { return std::to_string(least) + " to " + std::to_string(most); });
    table::check_rows(std::string("budget_table ") + name, rows, knobs);
  }
  table::check_point("budget_table full", bundle.budget_table->full, knobs);
}

}  // namespace adaptrt::bundle
