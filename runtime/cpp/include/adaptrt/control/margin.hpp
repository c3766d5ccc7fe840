// How far above its expectation a call may come out: the quantile that a percentile target needs.
//
// The quantile of recent ratios of measured to expected, at a level that every miss raises and every hit lowers a
// little (adaptive conformal inference, Gibbs and Candes, arXiv 2106.00170, equation 2).
#pragma once

#include <algorithm>
#include <deque>
#include <vector>

#include "adaptrt/control/normal_distribution.hpp"

namespace adaptrt::control {

class QuantileMargin {
 public:
  QuantileMargin(double percentile, double noise) : percentile_(percentile), level_(percentile), noise_(noise) {
    restart();
  }

  // Forget the ratios, not the level: the next calls will scatter in another way.
  void restart() {
    constexpr size_t calls = 24;
    sorted_.clear();
    order_.clear();
    for (size_t i = 0; i < calls; ++i) {
      sorted_.push_back(normal_quantile((static_cast<double>(i) + 0.5) / calls, 1.0, std::max(noise_, 1e-3)));
    }
    for (size_t i = 0; i < calls; ++i) order_.push_back(sorted_[i * 7 % calls]);
    std::sort(sorted_.begin(), sorted_.end());
  }

  // The quantile, between order statistics, at least 1.
  double factor() const {
    const double place = level_ * static_cast<double>(sorted_.size() + 1) - 1;
    const size_t low = std::min(static_cast<size_t>(std::max(place, 0.0)), sorted_.size() - 1);
    const size_t high = std::min(low + 1, sorted_.size() - 1);
    const double way = std::min(std::max(place - static_cast<double>(low), 0.0), 1.0);
    return std::max(sorted_[low] + (sorted_[high] - sorted_[low]) * way, 1.0);
  }

  // Take in measured over expected of one call.
  void observe(double ratio) {
    order_.push_back(ratio);
    sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), ratio), ratio);
    if (order_.size() > 120) {
      sorted_.erase(std::lower_bound(sorted_.begin(), sorted_.end(), order_.front()));
      order_.pop_front();
    }
  }

  // Move the level by whether a call that could be steered missed its target.
  void correct(bool missed) {
    const double level = level_ + 0.012 * ((missed ? 1.0 : 0.0) - 0.85 * (1 - percentile_));
    level_ = std::min(std::max(level, 0.5), 0.998);
  }

 private:
  double percentile_, level_, noise_;
  std::deque<double> order_;
  std::vector<double> sorted_;
};

}  // namespace adaptrt::control
