// How long each stage takes, so that the next one is begun only if it will end in time.
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

namespace adaptrt {

// Seconds of a monotonic clock.
inline double clock_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Times by stage and number of rows, rows counted in powers of two; any number of threads may use it.
class StageTimes {
 public:
  void add(size_t stage, int64_t rows, double seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Times& times = times_[{stage, bucket(rows)}];
    times.order.push_back(seconds);
    times.sorted.insert(std::lower_bound(times.sorted.begin(), times.sorted.end(), seconds), seconds);
    if (times.order.size() > kept) {
      times.sorted.erase(std::lower_bound(times.sorted.begin(), times.sorted.end(), times.order.front()));
      times.order.pop_front();
    }
  }

  // Whether every stage ran on about so many rows.
  bool knows(size_t stages, int64_t rows) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t stage = 0; stage < stages; ++stage) {
      if (times_.count({stage, bucket(rows)}) == 0) return false;
    }
    return true;
  }

  // Seconds that a stage takes at most, but for one call in a hundred; infinite where it never ran. Fewer rows than
  // were ever seen count as the next larger number that was.
  double high(size_t stage, int64_t rows) const {
    constexpr double margin = 1.1;  // 256 calls do not show the 257th
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto larger = times_.lower_bound({stage, bucket(rows)});
    if (larger != times_.end() && larger->first.first == stage) return larger->second.high() * margin;
    if (larger == times_.begin()) return std::numeric_limits<double>::infinity();
    const auto smaller = std::prev(larger);
    if (smaller->first.first != stage) return std::numeric_limits<double>::infinity();
    return smaller->second.high() * static_cast<double>(uint64_t{1} << (bucket(rows) - smaller->first.second)) * margin;
  }

 private:
  static constexpr size_t kept = 256;

  struct Times {
    std::deque<double> order;
    std::vector<double> sorted;
    double high() const {
      return sorted[std::min(static_cast<size_t>(0.99 * static_cast<double>(sorted.size())), sorted.size() - 1)];
    }
  };

  static int bucket(int64_t rows) {
    int bits = 0;
    for (int64_t rest = std::max<int64_t>(rows - 1, 0); rest > 0; rest >>= 1) ++bits;
    return bits;
  }

  mutable std::mutex mutex_;
  std::map<std::pair<size_t, int>, Times> times_;
};

// When one call's answer must be there.
class Deadline {
 public:
  Deadline(StageTimes& times, double end) : times_(&times), end_(end) {}

  // Whether a stage begun now ends in time; 50 us pass from the last stage's end to the caller's having the result.
  bool fits(size_t stage, int64_t rows) const { return clock_seconds() + times_->high(stage, rows) + 50e-6 <= end_; }
  void took(size_t stage, int64_t rows, double seconds) { times_->add(stage, rows, seconds); }

 private:
  StageTimes* times_;
  double end_;
};

}  // namespace adaptrt
