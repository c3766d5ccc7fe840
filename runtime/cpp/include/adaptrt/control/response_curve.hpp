// What a call takes over the share of work it does, as a profile measured it; `runtime/control/response_curve.py`.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "adaptrt/expected.hpp"

namespace adaptrt::control {

// Piecewise linear, never falling; beyond its ends it goes on as its first and last pieces do, but not below 0.
class ResponseCurve {
 public:
  // Shares of the dense work, ascending, and what a call takes at each, above 0. Throws `Failure`: they are not so.
  ResponseCurve(std::vector<double> fractions, std::vector<double> responses)
      : fractions_(std::move(fractions)), responses_(std::move(responses)) {
    if (fractions_.empty() || fractions_.size() != responses_.size()) {
      throw Failure(ErrorKind::budget, "got " + std::to_string(fractions_.size()) + " shares of work with " +
                                           std::to_string(responses_.size()) + " measurements, expected as many");
    }
    for (const auto* list : {&fractions_, &responses_}) {
      for (const double one : *list) {
        if (std::isfinite(one) && one > 0) continue;
        throw Failure(ErrorKind::budget,
                      "got a profile with measurements that are not above 0, expected finite ones; profile again");
      }
    }
    for (size_t i = 1; i < fractions_.size(); ++i) {
      if (fractions_[i] > fractions_[i - 1]) continue;
      throw Failure(ErrorKind::budget,
                    "got a profile whose shares of work do not ascend, expected ascending ones; profile again");
    }
    make_non_falling();
    for (size_t i = 1; i < fractions_.size(); ++i) {
      slopes_.push_back((responses_[i] - responses_[i - 1]) / (fractions_[i] - fractions_[i - 1]));
    }
    if (slopes_.empty()) slopes_.push_back(0.0);
  }

  double cheapest() const { return fractions_.front(); }
  double full() const { return fractions_.back(); }

  // The response at a share of work.
  double at(double fraction) const {
    const size_t i = piece(fractions_, fraction);
    return std::max(responses_[i] + slopes_[i] * (fraction - fractions_[i]), 0.0);
  }

  // Whether a call can have come out so: NaN, what is not above 0, and numbers of other orders cannot.
  bool can_be(double fraction, double response) const {
    constexpr double wildest = 1e6;
    const double usual = responses_.back();
    return usual / wildest < response && response < usual * wildest && full() / wildest < fraction &&
           fraction < full() * wildest;
  }

  // The largest share of work whose response is at most this, at least 0; beyond the ends as `at` goes on.
  double fraction_for(double response) const {
    const size_t i = piece(responses_, response);
    if (slopes_[i] == 0) {  // level at an end: whatever fits there fits beyond
      return response < responses_[i] ? 0.0 : std::numeric_limits<double>::infinity();
    }
    return std::max(fractions_[i] + (response - responses_[i]) / slopes_[i], 0.0);
  }

 private:
  size_t piece(const std::vector<double>& values, double value) const {
    const auto after = std::upper_bound(values.begin(), values.end(), value) - values.begin() - 1;
    return static_cast<size_t>(std::clamp<ptrdiff_t>(after, 0, static_cast<ptrdiff_t>(slopes_.size()) - 1));
  }

  // The closest non-falling sequence in least squares (pool adjacent violators).
  void make_non_falling() {
    std::vector<std::pair<double, double>> pools;
    for (const double value : responses_) {
      pools.emplace_back(value, 1.0);
      while (pools.size() > 1 && pools[pools.size() - 2].first > pools.back().first) {
        const auto [b, m] = pools.back();
        pools.pop_back();
        auto& [a, n] = pools.back();
        a = (a * n + b * m) / (n + m);
        n += m;
      }
    }
    responses_.clear();
    for (const auto& [mean, count] : pools) responses_.insert(responses_.end(), static_cast<size_t>(count), mean);
  }

  std::vector<double> fractions_, responses_, slopes_;
};

// Of an even number of values the mean of the middle two.
inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace adaptrt::control
