// Which share of work meets a target, call after call, while the device changes; `runtime/control/controller.py`.
//
// What the device makes of the work (`DeviceModel`), how much work the inputs take (`WorkloadModel`) and what single
// calls scatter (`QuantileMargin`) are told apart. There is no clock inside. Recorded traces in `tests/conformance`
// hold it to the Python one.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "adaptrt/control/device_model.hpp"
#include "adaptrt/control/margin.hpp"
#include "adaptrt/control/workload.hpp"
#include "adaptrt/message_text.hpp"

namespace adaptrt::control {

// What to run next.
struct Choice {
  double fraction = 0;      // share of the dense work to ask for
  double expected = 0;      // response that half of such calls stay under, in the target's unit
  double upper = 0;         // response that the wanted share of such calls stays under
  bool reachable = true;    // false where even the cheapest point is expected to miss the target
  std::optional<int> cold;  // which call after a pause it is, from 0; nothing for all later ones
  bool steered = false;     // whether it lies between the cheapest and the dearest point
};

struct ControllerOptions {
  double percentile = 0.95;
  double noise = 0.05;       // relative scatter of single calls in the profile
  std::vector<double> cold;  // how much longer the first calls after a pause take, as a factor for each
  double idle_after = 0.25;  // seconds without a call after which the next ones count as first ones
  std::optional<std::pair<double, double>> limits;  // smallest and largest share to ask for; nothing: the curve's ends
};

// Holds a percentile of the calls' latency under a target. Not safe to share between threads. For every call: `choose`
// before it, `observe` after it.
class LatencyController {
 public:
  LatencyController(double target, ResponseCurve curve, const ControllerOptions& options)
      : target_(target),
        curve_(std::move(curve)),
        device_(curve_.at(curve_.full()), options.noise),
        margin_(options.percentile, options.noise),
        percentile_(options.percentile),
        idle_after_(options.idle_after) {
    if (!(std::isfinite(target) && target > 0)) {
      throw Failure(ErrorKind::budget,
                    "got a target of " + text::number(target) + ", expected a finite number above 0");
    }
    for (size_t i = 0; i < cold_.size(); ++i) cold_[i] = i < options.cold.size() ? options.cold[i] : 1.0;
    const auto limits = options.limits.value_or(std::make_pair(curve_.cheapest(), curve_.full()));
    cheapest_ = limits.first;
    full_ = limits.second;
    width_ = std::max(full_ - cheapest_, 1e-9);
  }

  void set_target(double target) { target_ = target; }

  // What to ask for, in a call that begins at `now` (seconds of any monotonic clock). `scale` is what such a call takes
  // over what the curve says, as for another batch size.
  Choice choose(double now, double scale = 1.0) {
    // Threads ask for the time before they get their turn: a little earlier is no clock that was set back.
    if (!ended_ || std::fabs(now - *ended_) > idle_after_) since_idle_ = 0;
    Choice choice;
    if (since_idle_ < static_cast<int>(cold_.size())) choice.cold = since_idle_;
    const double margin = margin_.factor();
    const double goal = target_ / (margin * cold_factor(choice.cold) * scale);
    const double wanted = curve_.fraction_for(device_.profiled_for(goal)) / workload_.ratio();
    choice.fraction = moved(std::min(std::max(wanted, cheapest_), full_), {choice.cold.value_or(-1), scale});
    choice.expected = middle(choice.fraction, choice.cold) * scale;
    choice.upper = choice.expected * margin;
    choice.reachable = middle(cheapest_, choice.cold) * margin * scale <= target_;
    choice.steered = cheapest_ < choice.fraction && choice.fraction < full_;
    return choice;
  }

  // Take in a call that ended at `now`: the share of work that was done, and what it took in the target's unit. What
  // cannot be is left out.
  void observe(double now, const Choice& choice, double done, double measured, double scale = 1.0) {
    if (passed(now, choice) || !curve_.can_be(done, measured / scale)) return;
    const double expected = middle(choice.fraction, choice.cold) * scale;
    Finding finding = Finding::ordinary;
    if (choice.cold) {
      double& known = cold_[static_cast<size_t>(*choice.cold)];
      known = learnt_cold(known, measured / expected * known);
    } else {
      finding = device_.observe(curve_.at(done), measured / scale, odd_);
    }
    workload_.observe(choice.fraction, done);
    correct_margin(finding, choice.steered, measured, expected);
  }

  // A call ended of which nothing is to be learned but that it was; whether the clock has gone back since.
  bool passed(double now, const Choice& choice) {
    const bool gone_back = ended_ && now < *ended_ - idle_after_;
    ended_ = now;
    if (choice.cold && !gone_back) since_idle_ = std::max(since_idle_, *choice.cold + 1);
    return gone_back;
  }

 private:
  static constexpr int steps_apart = 150;  // calls: steps farther apart than that are exceptional

  struct Pending {
    double ratio;                // over what was expected
    std::optional<bool> missed;  // nothing for a call that could not be steered
  };

  // Outliers count once it is known that they are no step: the model answers for steps, the margin for them.
  void correct_margin(Finding finding, bool steered, double measured, double expected) {
    ++since_step_;
    const auto missed = steered ? std::optional<bool>(measured > target_) : std::nullopt;
    if (finding == Finding::step) {
      // A step is the model's, not the margin's. But where steps come again and again, so do their misses.
      if (since_step_ < steps_apart) {
        for (const Pending& one : pending_) {
          if (one.missed) margin_.correct(*one.missed);
        }
        if (missed) margin_.correct(*missed);
      }
      since_step_ = 0;
      pending_.clear();
      // How calls scatter now is not known: as the profile said, and outliers may be part of it.
      margin_.restart();
      odd_ = std::max(odd_, 5.0 * (1 - percentile_));
      return;
    }
    pending_.push_back({measured / expected, missed});
    if (finding != Finding::ordinary) return;
    constexpr double memory = 0.98;
    for (size_t i = 0; i < pending_.size(); ++i) {
      const bool odd = i + 1 < pending_.size();  // all before the ordinary one at the end
      odd_ += (1 - memory) * ((odd ? 1.0 : 0.0) - odd_);
      // As rare as misses may be, outliers are no reason to be careful; more often they are the scatter.
      if (!odd || odd_ > 2.0 * (1 - percentile_)) margin_.observe(pending_[i].ratio);
      if (pending_[i].missed) margin_.correct(*pending_[i].missed);
    }
    pending_.clear();
  }

  // The choice on its grid, no more than one step up, and where it was if it hardly differs. Calls of different batch
  // sizes, and first ones after a pause, each move on their own.
  double moved(double wanted, const std::pair<int, double>& kind) {
    constexpr double grid = 256;
    const auto last = last_.find(kind);
    if (last == last_.end() && last_.size() >= 64) {
      last_.clear();
    } else if (last != last_.end()) {
      if (std::fabs(wanted - last->second) < 0.01 * width_) return last->second;
      wanted = std::min(wanted, last->second + 0.1 * width_);
    }
    double chosen = full_;
    if (wanted < full_ - width_ / grid) {
      const double steps = std::floor((wanted - cheapest_) / width_ * grid);
      chosen = cheapest_ + std::max(steps, 0.0) * width_ / grid;
    }
    last_[kind] = chosen;
    return chosen;
  }

  // Expected response of a call at a share of work asked for.
  double middle(double fraction, const std::optional<int>& cold) const {
    return device_.predict(curve_.at(fraction * workload_.ratio())) * cold_factor(cold);
  }

  double cold_factor(const std::optional<int>& cold) const { return cold ? cold_[static_cast<size_t>(*cold)] : 1.0; }

  // One spike moves it by half at most.
  static double learnt_cold(double known, double seen) {
    constexpr double memory = 0.7, jump = 2.5;
    return memory * known + (1 - memory) * std::min(std::max(seen, known / jump), known * jump);
  }

  double target_;
  ResponseCurve curve_;
  DeviceModel device_;
  QuantileMargin margin_;
  WorkloadModel workload_;
  double percentile_, odd_ = 0.0;
  std::array<double, 3> cold_{};
  double idle_after_, cheapest_ = 0, full_ = 0, width_ = 0;
  std::map<std::pair<int, double>, double> last_;  // share chosen last for calls of a kind
  std::optional<double> ended_;
  int since_idle_ = 0, since_step_ = steps_apart;
  std::vector<Pending> pending_;  // of outliers
};

}  // namespace adaptrt::control
