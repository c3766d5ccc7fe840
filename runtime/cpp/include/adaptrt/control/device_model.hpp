// What the device makes of its profile: an affine model that follows drift, steps over outliers and catches steps.
//
// A Kalman filter over `response = a + b * profiled` whose uncertainty grows along (a, b) and hardly across it; why is
// said in `runtime/control/device_model.py`, whose numbers these are, to the last bit without fused multiply-add.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "adaptrt/control/response_curve.hpp"

namespace adaptrt::control {

// What an observation was taken for.
enum class Finding { ordinary, outlier, step };

// Not safe to share between threads.
class DeviceModel {
 public:
  // A typical response, and the relative standard deviation of single calls to begin with.
  explicit DeviceModel(double scale, double noise = 0.05) : scale_(scale), variance_(noise * noise) {}

  double noise() const { return std::sqrt(variance_); }

  // Expected response where the profile says `profiled`.
  double predict(double profiled) const { return std::max(a_ * scale_ + b_ * profiled, 1e-3 * profiled); }

  // The profiled response where `response` is expected.
  double profiled_for(double response) const { return (response - a_ * scale_) / b_; }

  // Take in one call. `odd` is the share of single calls that are outliers now: the more there are, the longer a run of
  // them has to be until it cannot be chance.
  Finding observe(double profiled, double measured, double odd = 0.0) {
    const double x = profiled / scale_, predicted = predict(profiled);
    const double y = measured / scale_, expected = predicted / scale_;
    const double a = a_, b = b_;
    const double aa = aa_ + (drift * a) * (drift * a) + shape * shape;
    const double ab = ab_ + drift * drift * a * b;
    const double bb = bb_ + (drift * b) * (drift * b) + shape * shape;
    const double noise = variance_ * (expected * expected);
    double spread = aa + 2 * x * ab + x * x * bb + noise;
    const double error = y - expected;
    const double distance = std::fabs(error) / std::sqrt(spread);
    if (distance > outlier) {
      aa_ = aa;
      ab_ = ab;
      bb_ = bb;
      return suspect(measured / predicted, odd);
    }
    suspects_.clear();
    const bool changed = leans(std::copysign(distance, error));
    if (distance > huber) spread += noise * (distance / huber - 1);
    const double gain_a = (aa + x * ab) / spread, gain_b = (ab + x * bb) / spread;
    a_ = std::min(std::max(a + gain_a * error, -0.5 * b_), 10.0);
    b_ = std::max(b + gain_b * error, smallest_slope);
    aa_ = aa - gain_a * (aa + x * ab);
    ab_ = ab - gain_a * (ab + x * bb);
    bb_ = bb - gain_b * (ab + x * bb);
    const double relative = std::min(std::fabs(error) / expected, 3 * this->noise());
    constexpr double low = 0.005, high = 0.3, memory = 0.97;
    const double variance = memory * variance_ + (1 - memory) * (relative * relative);
    variance_ = std::min(std::max(variance, low * low), high * high);
    return changed ? Finding::step : Finding::ordinary;
  }

 private:
  static constexpr double drift = 0.005;      // standard deviation of the common factor's change, per call
  static constexpr double shape = 0.001;      // of a's and b's own changes, per call
  static constexpr double after_step = 0.15;  // that the common factor is uncertain by after a step
  static constexpr double outlier = 4.0;      // standard deviations from where on a call changes nothing by itself
  static constexpr double huber = 2.0;        // from where on it counts less
  static constexpr double smallest_slope = 0.02;
  static constexpr size_t longest_run = 8;  // outliers to one side that are a step however much they differ

  // Whether calls lie to one side for so long that the device has changed, by less than outliers show.
  bool leans(double deviation) {
    lean_ = lean_ * deviation > 0 ? lean_ + deviation : deviation;
    if (std::fabs(lean_) < 12.0) return false;
    lean_ = 0.0;
    return true;
  }

  // Count an outlier; enough of them in a row are a step of the whole device.
  Finding suspect(double ratio, double odd) {
    if (!suspects_.empty() && (ratio > 1) != (suspects_.back() > 1)) suspects_.clear();
    suspects_.push_back(ratio);
    size_t run = 3;
    if (odd > 0) {
      const double rare = std::ceil(std::log(1e-3) / std::log(std::min(odd, 0.5)));
      run = static_cast<size_t>(std::min(std::max(3.0, rare), static_cast<double>(longest_run)));
    }
    const size_t count = std::min(run, suspects_.size());
    const std::vector<double> latest(suspects_.end() - static_cast<ptrdiff_t>(count), suspects_.end());
    const auto [least, most] = std::minmax_element(latest.begin(), latest.end());
    const bool alike = latest.size() == run && *most < 1.5 * *least;
    if (!alike && suspects_.size() < longest_run) return Finding::outlier;
    const double factor = median(latest);
    a_ *= factor;
    b_ = std::max(b_ * factor, smallest_slope);
    aa_ = aa_ * (factor * factor) + (after_step * a_) * (after_step * a_);
    ab_ = ab_ * (factor * factor) + after_step * after_step * a_ * b_;
    bb_ = bb_ * (factor * factor) + (after_step * b_) * (after_step * b_);
    suspects_.clear();
    return Finding::step;
  }

  double scale_;
  double a_ = 0.0, b_ = 1.0;
  double aa_ = 0.03 * 0.03, ab_ = 0.0, bb_ = 0.15 * 0.15;
  double variance_;
  std::vector<double> suspects_;
  double lean_ = 0.0;  // standard deviations that the latest ordinary calls to one side add up to
};

}  // namespace adaptrt::control
