// How much more or less work the inputs take than those of calibration, at the same knobs.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "adaptrt/control/response_curve.hpp"

namespace adaptrt::control {

// A slowly moving ratio of work done to work expected; follows a jump after three calls to one side.
class WorkloadModel {
 public:
  double ratio() const { return ratio_; }

  // Take in one call's shares of work, both above 0.
  void observe(double expected, double done) {
    constexpr double memory = 0.9;
    const double ratio = std::min(std::max(done / expected, 0.2), 5.0), away = ratio / ratio_ - 1;
    if (std::fabs(away) <= 0.25) {
      jumped_.clear();
      ratio_ += (1 - memory) * (ratio - ratio_);
      return;
    }
    if (!jumped_.empty() && (jumped_.back() > ratio_) != (away > 0)) jumped_.clear();
    jumped_.push_back(ratio);
    if (jumped_.size() >= 3) {
      ratio_ = median(jumped_);
      jumped_.clear();
    } else {
      ratio_ += (1 - memory) * (ratio - ratio_);
    }
  }

 private:
  double ratio_ = 1.0;
  std::vector<double> jumped_;
};

}  // namespace adaptrt::control
