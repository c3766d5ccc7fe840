// What a bundle takes on this device, over the operating points that budgets lead to; `runtime/device/profile.py`.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "adaptrt/control/response_curve.hpp"
#include "adaptrt/device/stage_times.hpp"
#include "adaptrt/message_text.hpp"

namespace adaptrt {

// One operating point.
struct ProfilePoint {
  double fraction = 0;  // share of the dense work that was asked for
  double done = 0;      // mean share that was done
  std::optional<double> quality;
  double median_ms = 0, p95_ms = 0;
  int64_t runs = 0;
};

// What a profile holds for, and for nothing else.
struct DeviceKey {
  std::string bundle, backend, device;  // hash of bundle.json; engine and version; processor
  int threads = 1;
  int64_t batch = 1;
  int processors = 1;
  std::optional<double> quota;

  // As the file of a profile has it, which is found by its hash.
  std::string json() const {
    return "{\"bundle\":" + text::json(bundle) + ",\"backend\":" + text::json(backend) +
           ",\"device\":" + text::json(device) + ",\"power_mode\":null,\"threads\":" + std::to_string(threads) +
           ",\"batch\":" + std::to_string(batch) + ",\"processors\":" + std::to_string(processors) +
           ",\"quota\":" + (quota ? text::number(*quota) : "null") + "}";
  }
};

// Latency over the operating points of one bundle on one device.
struct Profile {
  DeviceKey key;
  std::vector<ProfilePoint> points;  // from the cheapest on
  double noise = 0.05;               // relative scatter of single calls
  std::vector<double> cold;          // how much longer the first calls after a pause take
  double seconds = 0;                // that measuring took

  // Milliseconds over the share of work done.
  control::ResponseCurve curve() const {
    std::vector<std::pair<double, double>> pairs;
    for (const ProfilePoint& point : points) pairs.emplace_back(point.done, point.median_ms);
    std::sort(pairs.begin(), pairs.end());
    std::vector<double> shares, responses;
    for (const auto& [share, response] : pairs) {
      if (!shares.empty() && share <= shares.back() + 1e-3) continue;  // shares that cannot be told apart
      shares.push_back(share);
      responses.push_back(response);
    }
    return {shares, responses};
  }
};

namespace profiling {

inline constexpr int cold_calls = 3;

// The value with a share of the others below it, between two of them where it lies between.
inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (values[high] - values[low]) * (place - static_cast<double>(low));
}

// Shares of the dense work to measure at, evenly from the cheapest calibrated point to everything.
inline std::vector<double> shares(double cheapest, double full) {
  constexpr int count = 9;
  if (full - cheapest < 1e-3) return {full};
  std::vector<double> all;
  for (int step = 0; step < count; ++step) all.push_back(cheapest + (full - cheapest) * step / (count - 1));
  return all;
}

}  // namespace profiling

// Runs a call at the share of this number; gives the share done, and the milliseconds it took.
using ProfiledCall = std::function<std::pair<double, double>(size_t)>;

// Measure in about `seconds`: the points in turn, in an order that changes from round to round, so that drift and
// neighbours fall on all of them alike; then the first calls after a pause. Throws `Failure`.
inline Profile measure_profile(const ProfiledCall& call, std::vector<ProfilePoint> points, DeviceKey key,
                               double seconds) {
  const double begin = clock_seconds();
  for (size_t i = points.size(); i-- > 0;) call(i);
  for (int warm = 0; warm < 3; ++warm) call(points.size() - 1);
  std::vector<std::vector<double>> times(points.size()), done(points.size());
  std::vector<size_t> order(points.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937 generator(0);
  const double steady = clock_seconds();
  for (int round = 0; round < 60 && (round < 5 || clock_seconds() - steady <= seconds); ++round) {
    std::shuffle(order.begin(), order.end(), generator);
    for (const size_t i : order) {
      const auto [share, milliseconds] = call(i);
      done[i].push_back(share);
      times[i].push_back(milliseconds);
    }
  }
  Profile profile{std::move(key), std::move(points), 0, {}, 0};
  std::vector<double> scatter;
  for (size_t i = 0; i < profile.points.size(); ++i) {
    ProfilePoint& point = profile.points[i];
    point.done = std::accumulate(done[i].begin(), done[i].end(), 0.0) / static_cast<double>(done[i].size());
    point.median_ms = control::median(times[i]);
    point.p95_ms = profiling::quantile(times[i], 0.95);
    point.runs = static_cast<int64_t>(times[i].size());
    if (!(std::isfinite(point.median_ms) && point.median_ms > 0)) {
      throw Failure(ErrorKind::budget, "got calls that took " + text::number(point.median_ms) +
                                           " ms, expected times above 0; check the clock, profile again");
    }
    scatter.push_back(profiling::quantile(times[i], 0.84) / point.median_ms - 1);
  }
  std::vector<std::vector<double>> factors(profiling::cold_calls);
  for (int pause = 0; pause < 5; ++pause) {
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
    for (auto& factor : factors)
      factor.push_back(call(profile.points.size() - 1).second / profile.points.back().median_ms);
  }
  for (const auto& factor : factors) profile.cold.push_back(std::max(control::median(factor), 1.0));
  profile.noise = std::min(std::max(control::median(scatter), 0.01), 0.3);
  profile.seconds = clock_seconds() - begin;
  return profile;
}

}  // namespace adaptrt
