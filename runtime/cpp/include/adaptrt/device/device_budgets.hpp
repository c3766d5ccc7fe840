// Budgets in milliseconds, from profile to controller, for one model and all of its threads.
//
// The model's own budget has one controller, which all calls without a budget of their own share and teach. A call with
// its own budget is answered from the profile and teaches that controller nothing; whether the profile still is what
// the device does is followed beside it. See `runtime/device/device_budgets.py`.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "adaptrt/control/controller.hpp"
#include "adaptrt/device/profile.hpp"
#include "adaptrt/plan.hpp"

namespace adaptrt {

// One call under a budget of latency.
struct Ticket {
  SharedPlan plan;
  double expected = 0;                    // milliseconds that half of such calls stay under
  std::optional<control::Choice> choice;  // the controller's, to be observed; nothing for a call with its own budget
  int64_t batch = 1;
  double scale = 1;  // what the batch takes over the profiled one, as assumed
  std::shared_ptr<control::LatencyController> controller;
  double cold = 1;  // how much longer such a call takes as it comes after a pause; of own budgets
};

// Any number of threads may use it.
class DeviceBudgets {
 public:
  // Gives the profile for calls of so many samples: from the cache, or measured now.
  using Profiler = std::function<Profile(int64_t)>;

  explicit DeviceBudgets(const Planner& planner) : planner_(&planner) {}

  // Work with this profile from now on; the controller starts anew with it.
  void use(Profile profile) {
    auto known = std::make_shared<const Known>(Known{profile, profile.curve()});
    const std::lock_guard<std::mutex> lock(mutex_);
    device_.emplace(known->curve.at(known->curve.full()), profile.noise);
    known_ = std::move(known);
    factors_.clear();
    controller_.reset();
  }

  // The model's own budget was changed: its controller starts anew.
  void reset() {
    const std::lock_guard<std::mutex> lock(mutex_);
    controller_.reset();
  }

  // Choose what a call of so many samples, at least one, runs. Throws `Failure`.
  Ticket begin(const Budget& budget, int64_t batch, double now, bool for_call, const Profiler& profiler) {
    const std::shared_ptr<const Known> known = ready(batch, profiler);
    Ticket ticket;
    ticket.batch = batch;
    if (for_call) {
      from_profile(ticket, budget, *known, now);
      return ticket;
    }
    control::Choice choice;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ticket.scale = scale(*known, batch);
      if (!controller_) {
        control::ControllerOptions options;
        options.percentile = budget.percentile;
        options.noise = known->profile.noise;
        options.cold = known->profile.cold;
        options.limits = planner_->shares();
        controller_ = std::make_shared<control::LatencyController>(budget.value, known->curve, options);
      }
      controller_->set_target(budget.value);
      choice = controller_->choose(now, ticket.scale);
      ticket.controller = controller_;
    }
    ticket.plan = plan(budget, choice.fraction, choice.upper, choice.reachable);
    // Where nothing is interpolated, or more work is no better, less runs than was asked for: no easier input.
    const double run = ticket.plan->point.macs_fraction;
    choice.expected *= known->curve.at(run) / known->curve.at(choice.fraction);
    choice.fraction = run;
    ticket.expected = choice.expected;
    ticket.choice = choice;
    return ticket;
  }

  // Take in what a call took, and the share of work it did.
  void end(const Ticket& ticket, double done, double milliseconds, double now) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = now;
    ++since_idle_;
    const bool learnt = learn_factor(ticket, milliseconds);
    if (!ticket.choice) {
      if (!learnt && known_->curve.can_be(done, milliseconds / ticket.scale)) {
        device_->observe(known_->curve.at(done), milliseconds / ticket.scale / ticket.cold);
      }
    } else if (learnt) {
      ticket.controller->passed(now, *ticket.choice);
    } else {
      ticket.controller->observe(now, *ticket.choice, done, milliseconds, ticket.scale);
    }
  }

 private:
  struct Known {
    Profile profile;
    control::ResponseCurve curve;
  };

  std::shared_ptr<const Known> known() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return known_;
  }

  std::shared_ptr<const Known> ready(int64_t batch, const Profiler& profiler) {
    if (auto found = known()) return found;
    const std::lock_guard<std::mutex> lock(profiling_);  // other threads wait for the first one's
    if (!known()) use(profiler(batch));
    return known();
  }

  // Work grows with the batch; a factor per batch size, the median of what its calls took, makes up for what does not.
  double scale(const Known& known, int64_t batch) const {
    const auto seen = factors_.find(batch);
    const double factor = seen == factors_.end() || seen->second.empty() ? 1.0 : control::median(seen->second);
    return static_cast<double>(batch) / static_cast<double>(known.profile.key.batch) * factor;
  }

  // Learn what a batch size without a profile takes, from 16 calls; whether the call was used up by that.
  bool learn_factor(const Ticket& ticket, double measured) {
    const auto profiled = static_cast<double>(known_->profile.key.batch);
    if (ticket.batch == known_->profile.key.batch || !(0 < measured && measured < bundle::infinity)) return false;
    std::vector<double>& seen = factors_[ticket.batch];
    if (seen.size() >= 16) return false;
    const double assumed = ticket.scale * profiled / static_cast<double>(ticket.batch);
    seen.push_back(assumed * std::min(std::max(measured / ticket.expected, 0.2), 5.0));
    return true;
  }

  void from_profile(Ticket& ticket, const Budget& budget, const Known& known, double now) {
    double fraction = 0, upper = 0;
    bool reachable = true;
    const control::DeviceModel device = [&] {
      const std::lock_guard<std::mutex> lock(mutex_);
      ticket.scale = scale(known, ticket.batch);
      ticket.cold = cold_factor(known.profile, now);
      return *device_;
    }();
    const double margin =
        control::normal_quantile(budget.percentile, 1.0, std::max(known.profile.noise, device.noise()));
    const double allowed = budget.value / (margin * ticket.scale * ticket.cold);
    const auto [cheapest, full] = planner_->shares();
    fraction = std::min(std::max(known.curve.fraction_for(device.profiled_for(allowed)), cheapest), full);
    upper = device.predict(known.curve.at(fraction)) * ticket.scale * ticket.cold * margin;
    reachable = allowed >= device.predict(known.curve.at(cheapest));
    ticket.plan = plan(budget, fraction, upper, reachable);
    ticket.expected = device.predict(known.curve.at(ticket.plan->point.macs_fraction)) * ticket.scale * ticket.cold;
  }

  // What the profile says of the first calls after a pause.
  double cold_factor(const Profile& profile, double now) {
    if (!ended_ || now - *ended_ > 0.25) since_idle_ = 0;
    return since_idle_ < profile.cold.size() ? profile.cold[since_idle_] : 1.0;
  }

  SharedPlan plan(const Budget& budget, double fraction, double upper, bool reachable) const {
    std::string message;
    if (!reachable) {
      message = "got a budget of " + budget.text() + ", but the cheapest calibrated point is expected to take up to " +
                text::digits(upper, 4) + " ms now; ran that one";
    }
    return planner_->for_fraction(fraction, budget, reachable, message);
  }

  const Planner* planner_;
  std::mutex mutex_, profiling_;
  std::shared_ptr<const Known> known_;
  std::optional<control::DeviceModel> device_;  // what the device makes of the profile, by calls with own budgets
  std::shared_ptr<control::LatencyController> controller_;
  std::map<int64_t, std::vector<double>> factors_;  // what calls of a batch size took, each
  std::optional<double> ended_;
  size_t since_idle_ = 0;
};

}  // namespace adaptrt
