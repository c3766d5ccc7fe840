// Whether calls under a soft budget take the work that calibration lets expect of them; `runtime/work_check.py`.
#pragma once

#include <cmath>
#include <map>
#include <mutex>
#include <string>

#include "adaptrt/message_text.hpp"

namespace adaptrt {

// The excess over the expected work, over the latest samples of one model; any number of threads may use it.
class SoftBudgetCheck {
 public:
  // The budget was changed.
  void reset() {
    const std::lock_guard<std::mutex> lock(mutex_);
    excesses_.clear();
  }

  // Take in a call under a soft budget of work: the expected mean share, and what each sample took. Gives what to say
  // to the user, if by the latest look such calls take clearly more than was expected; else nothing.
  std::string observe(double expected, const float* done, int64_t count) {
    double excess = 0, squares = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double one = static_cast<double>(done[i]) - expected;
      excess += one;
      squares += one * one;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    // Calls that expect about the same work are looked at together, and no others.
    Excess& kind = excesses_[static_cast<int>(expected * 20)];
    if (std::isfinite(squares))
      kind.add(static_cast<double>(count), excess, squares, static_cast<double>(count) * expected);
    return kind.text;
  }

 private:
  struct Excess {
    double samples = 0, excess = 0, squares = 0, expected = 0, next_look = 8;
    std::string text;

    void add(double count, double more, double more_squares, double more_expected) {
      samples += count;
      excess += more;
      squares += more_squares;
      expected += more_expected;
      if (samples >= next_look) look();
    }

    void look() {
      const double mean = excess / samples, wanted = expected / samples;
      const double scatter = std::sqrt(std::max(squares / samples - mean * mean, 0.0));
      const double error = std::max(scatter, 0.1) / std::sqrt(samples);  // a few alike do not show how others scatter
      text.clear();
      if (mean > 0.02 * (1 + wanted) + 3 * error) {
        text = "calls under this soft budget take " + adaptrt::text::digits(wanted + mean, 4) +
               " of the dense work on average over the last " + std::to_string(std::llround(samples)) +
               " samples, expected " + adaptrt::text::digits(wanted, 4) +
               " as calibrated: these inputs are not like the calibration data; run `adaptrt calibrate` with data like "
               "these, or ask for less";
      }
      if (samples > 2000) {  // what is said is about the latest
        samples /= 2;
        excess /= 2;
        squares /= 2;
        expected /= 2;
      }
      next_look = std::max(samples * 1.1, samples + 1);
    }
  };

  std::mutex mutex_;
  std::map<int, Excess> excesses_;
};

}  // namespace adaptrt
