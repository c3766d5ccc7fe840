// What a caller may spend, and what a bundle's table makes of it.
#pragma once

#include <cmath>
#include <string>

#include "adaptrt/expected.hpp"
#include "adaptrt/message_text.hpp"

namespace adaptrt {

enum class BudgetKind { full, fraction, macs, latency };

// One kind of budget; the rows of `runtime/control/budget_kinds.py` that this runtime obeys.
struct BudgetKindRecord {
  BudgetKind kind;
  const char* name;
  const char* counts;
  const char* shown;
  const char* shown_hard;
};

inline constexpr BudgetKindRecord budget_kinds[] = {
    {BudgetKind::full, "full", "nothing", "", ""},
    {BudgetKind::fraction, "fraction", "a share of the dense model's work", " of the dense work",
     " of the dense work for each sample"},
    {BudgetKind::macs, "macs", "multiply-accumulates per sample", " MACs per sample", " MACs for each sample"},
    {BudgetKind::latency, "latency", "milliseconds per call", " ms for ", ""},
};

// Work per sample, or the time of a call on this device. Plain data: `Model` checks it when it meets it.
struct Budget {
  BudgetKind kind = BudgetKind::full;
  double value = 0.0;
  bool hard = false;        // whether it holds for each sample; of work only
  double percentile = 0.0;  // share of the calls that are to stay under it; of latency only

  // Everything runs.
  static Budget full() { return {}; }
  // A share of the dense model's multiply-accumulates, on average over inputs like the calibration data.
  static Budget fraction(double share, bool hard = false) { return {BudgetKind::fraction, share, hard, 0.0}; }
  // Multiply-accumulates per sample.
  static Budget macs(double count, bool hard = false) { return {BudgetKind::macs, count, hard, 0.0}; }
  // Milliseconds of a call, held by feedback while the device changes.
  static Budget latency(double ms, double percentile = 0.95) { return {BudgetKind::latency, ms, false, percentile}; }

  const BudgetKindRecord& record() const { return budget_kinds[static_cast<size_t>(kind)]; }
  bool physical() const { return kind == BudgetKind::latency; }
  bool work() const { return kind == BudgetKind::fraction || kind == BudgetKind::macs; }

  // For messages, such as `0.5 of the dense work`.
  std::string text() const {
    if (kind == BudgetKind::full) return "full";
    const std::string amount = text::digits(value, 4) + (hard ? record().shown_hard : record().shown);
    return physical() ? amount + text::digits(percentile, 4) + " of the calls" : amount;
  }

  // Refuse what makes no sense. Throws `Failure`.
  void check() const {
    if (kind == BudgetKind::full) return;
    if (!std::isfinite(value) || value < 0 || (physical() && value == 0)) {
      throw Failure(ErrorKind::budget, "got a budget of " + text::number(value) + "; expected " + record().counts +
                                           ", a finite number " + (physical() ? "above 0" : "of at least 0"));
    }
    if (physical() && hard) {
      throw Failure(ErrorKind::budget,
                    "got a hard budget of kind 'latency'; expected hard=False: a device promises nothing");
    }
    if (physical() && !(0.5 <= percentile && percentile <= 0.999)) {
      throw Failure(ErrorKind::budget, "got percentile=" + text::number(percentile) +
                                           "; expected a share of the calls from 0.5 to 0.999, such as 0.95");
    }
  }
};

}  // namespace adaptrt
