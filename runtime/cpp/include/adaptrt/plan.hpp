// What a call needs to know of its budget, worked out once and shared by all threads.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adaptrt/budget.hpp"
#include "adaptrt/budget_table.hpp"
#include "adaptrt/inputs.hpp"
#include "adaptrt/session.hpp"

namespace adaptrt {

// Knob values, and what calibration lets expect of them.
struct OperatingPoint {
  bundle::KnobValues knobs;
  double macs_fraction = std::numeric_limits<double>::quiet_NaN();  // NaN where never calibrated
  std::optional<double> quality;
  bool reachable = true;  // false where the budget is below the cheapest point, which this then is
};

// One budget's operating point as values to feed; never changed once made.
struct Plan {
  std::optional<Budget> budget;  // nothing where knob values were asked for
  OperatingPoint point;
  std::vector<std::shared_ptr<char[]>> memory;
  std::vector<Value> feeds;       // for every knob; null for the exit thresholds, which no graph has
  std::vector<float> thresholds;  // for each stage but the last the confidence above which a sample leaves
  std::string message;            // where the budget cannot be met
  bool checked = false;           // whether its calls are to take the expected work on average
  bool everything = false;        // whether every knob stands at its default and nobody leaves early
};

using SharedPlan = std::shared_ptr<const Plan>;

// Makes plans for one bundle; any number of threads may ask it.
class Planner {
 public:
  Planner(const bundle::Bundle& bundle, const Session& session) : bundle_(&bundle), session_(&session) {
    for (const bundle::Knob& knob : bundle.knobs) dtypes_[knob.name] = dtype_named(knob.dtype)->dtype;
    everything_ = solve(Budget::full()).macs_fraction;
    if (bundle.budget_table && !bundle.budget_table->soft.empty()) {
      const double cheapest = solve(Budget::fraction(0.0)).macs_fraction;
      shares_ = {cheapest, std::max(cheapest, everything_)};
    }
  }

  const std::map<std::string, DType>& dtypes() const { return dtypes_; }

  // The plan that obeys a budget; of one of latency what stands for it until a call: everything. Throws `Failure`.
  SharedPlan for_budget(const Budget& budget) const {
    budget.check();
    if (budget.physical()) return for_fraction(shares().second, budget, true, "");
    OperatingPoint point = solve(budget);
    std::string message;
    if (!point.reachable) {
      message = "got a budget of " + budget.text() + ", but the cheapest calibrated point takes " +
                text::digits(point.macs_fraction, 4) + " of the dense work; ran that one";
    }
    return plan(budget, std::move(point), std::move(message));
  }

  // The plan that feeds given values; knobs that are not named stand at their defaults. Throws `Failure`.
  SharedPlan for_knobs(const bundle::KnobValues& knobs) const {
    OperatingPoint point;
    point.knobs = knob_values::complete(bundle_->knobs, knobs);
    return plan(std::nullopt, std::move(point), "");
  }

  // The plan that runs a share of the dense work for the sake of a budget of latency.
  SharedPlan for_fraction(double fraction, const Budget& budget, bool reachable, const std::string& message) const {
    const SharedPlan found = for_budget(fraction >= everything_ ? Budget::full() : Budget::fraction(fraction));
    Plan changed = *found;
    changed.budget = budget;
    changed.point.reachable = reachable;
    changed.message = message;
    changed.checked = false;
    return std::make_shared<const Plan>(std::move(changed));
  }

  // The shares of the dense work between which budgets choose. Throws `Failure`: the bundle has no curve.
  std::pair<double, double> shares() const {
    if (!shares_) refuse(Budget::fraction(0.0));
    return *shares_;
  }

  // The operating point of a budget of work or of everything.
  OperatingPoint solve(const Budget& budget) const {
    const auto& table = bundle_->budget_table;
    OperatingPoint point;
    if (budget.kind == BudgetKind::full) {
      for (const bundle::Knob& knob : bundle_->knobs) point.knobs[knob.name] = knob.default_value;
      if (table) {
        point.macs_fraction = table->full.work;
        point.quality = table->full.quality;
      }
      return point;
    }
    if (!table || (budget.hard ? table->hard : table->soft).empty()) refuse(budget);
    const double share =
        budget.kind == BudgetKind::macs ? budget.value / static_cast<double>(bundle_->dense.macs) : budget.value;
    Answer answer = look_up(budget.hard ? table->hard : table->soft, share, dtypes_);
    point.knobs = std::move(answer.knobs);
    point.macs_fraction = answer.work;
    point.quality = answer.quality;
    point.reachable = answer.reachable;
    return point;
  }

 private:
  [[noreturn]] void refuse(const Budget& budget) const {
    const std::string got =
        "got a budget of " + budget.text() + ", but bundle " + text::quoted(bundle_->name) + " has ";
    const auto& table = bundle_->budget_table;
    if (!table && !bundle_->curve.empty()) {
      throw Failure(ErrorKind::budget,
                    got + "no budget_table, expected one; run `adaptrt calibrate` on it, or use Budget::full()");
    }
    if (budget.hard) {
      throw Failure(
          ErrorKind::budget,
          got +
              "no calibrated point at which every sample takes the same work; export the model with its `capacity` "
              "(and `keep`) knobs and calibrate it for hard budgets, or ask for a soft one, without hard");
    }
    if (table && !table->hard.empty()) {
      throw Failure(ErrorKind::budget,
                    got + "points for hard budgets only; pass hard=True, calibrate it anew, or pass knobs");
    }
    throw Failure(ErrorKind::budget,
                  got + "no calibrated curve; run `adaptrt calibrate` on it, use Budget::full(), or pass knobs");
  }

  SharedPlan plan(const std::optional<Budget>& budget, OperatingPoint point, std::string message) const {
    auto made = std::make_shared<Plan>();
    made->budget = budget;
    made->message = std::move(message);
    made->everything = true;
    for (const bundle::Knob& knob : bundle_->knobs) feed(*made, knob, point.knobs.at(knob.name));
    made->checked = budget && budget->work() && !budget->hard && std::isfinite(point.macs_fraction);
    made->point = std::move(point);
    return made;
  }

  void feed(Plan& plan, const bundle::Knob& knob, const bundle::KnobValue& value) const {
    const DType dtype = dtypes_.at(knob.name);
    const auto* list = std::get_if<std::vector<double>>(&value);
    const auto size = static_cast<size_t>(bundle::size_of(knob));
    const auto number = [&](size_t i) { return list ? (*list)[i] : std::get<double>(value); };
    for (size_t i = 0; i < size; ++i) plan.everything &= number(i) == knob.default_value;
    if (knob.name == bundle::thresholds_knob) {
      for (size_t i = 0; i < size; ++i) plan.thresholds.push_back(static_cast<float>(number(i)));
      plan.feeds.push_back(nullptr);
      return;
    }
    const size_t each = record_of(dtype).size;
    std::shared_ptr<char[]> memory(new char[size * each]);
    for (size_t i = 0; i < size; ++i) store(number(i), dtype, memory.get() + i * each);
    plan.feeds.push_back(session_->wrap({dtype, Shape(knob.shape.begin(), knob.shape.end()), memory.get()}));
    plan.memory.push_back(std::move(memory));
  }

  const bundle::Bundle* bundle_;
  const Session* session_;
  std::map<std::string, DType> dtypes_;
  double everything_ = 0;  // what everything running takes
  std::optional<std::pair<double, double>> shares_;
};

}  // namespace adaptrt
