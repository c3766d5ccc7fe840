// Running a loaded bundle under a budget.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "adaptrt/device/device_budgets.hpp"
#include "adaptrt/device/profile_cache.hpp"
#include "adaptrt/engines.hpp"
#include "adaptrt/plan.hpp"
#include "adaptrt/work_check.hpp"

namespace adaptrt {

using Knobs = bundle::KnobValues;

// How to load a bundle.
struct Options {
  // That one operator may use; 0 takes the physical cores that the process may run on, as far as its quota feeds them.
  int threads = 0;
  // Path of libonnxruntime; empty takes $ADAPTRT_ONNXRUNTIME, or what the system finds.
  std::string library;
  // ONNX Runtime's execution providers in order of preference; empty is the CPU. All of them must start.
  Providers providers;
};

// What one call may say beside its inputs. A budget or knobs; neither takes the model's budget.
struct Call {
  std::optional<Budget> budget;
  std::optional<Knobs> knobs;         // those that are not named stand at their defaults
  std::optional<double> deadline_ms;  // from the call's entry; needs a bundle with exits
};

// What one call returned and cost.
struct Result {
  std::vector<NamedTensor> outputs;  // in the bundle's order, but `macs_fraction`
  Tensor macs_fraction;              // float32 [batch], the share of the dense work that each sample used
  double latency_ms = 0;             // of executing all stages
  std::optional<Budget> budget;      // that was obeyed; nothing where knobs were given
  Knobs knobs;
  bool reachable = true;                      // false where the budget is below the cheapest point, which then ran
  std::string message;                        // says so, or that calls take clearly more work than was calibrated
  std::optional<std::vector<int64_t>> exits;  // the stage at whose head each sample left; nothing with one stage
  std::optional<double> expected;             // milliseconds that half of such calls stay under, of a latency budget
  std::optional<bool> deadline_met;

  // Whether the call kept its deadline, or else its budget of latency; nothing where there was neither.
  std::optional<bool> target_met() const {
    if (deadline_met || !budget || !budget->physical()) return deadline_met;
    return latency_ms <= budget->value;
  }

  // An output by name, or null.
  const Tensor* output(const std::string& name) const {
    for (const NamedTensor& one : outputs) {
      if (one.name == name) return &one.array;
    }
    return nullptr;
  }
};

// A loaded bundle; any number of threads may use one. Make it with `load`.
class Model {
 public:
  // Load an exported folder. Everything is checked first: the schema, that no path leaves the folder, and every
  // file's hash, on the very bytes that then run.
  static Expected<std::unique_ptr<Model>> load(const std::string& folder, const Options& options = {}) {
    return guarded<std::unique_ptr<Model>>([&] { return std::unique_ptr<Model>(new Model(folder, options)); });
  }

  // What `bundle.json` says.
  const bundle::Bundle& bundle() const { return bundle_; }
  // Such as `onnxruntime 1.32.0`.
  const std::string& engine_version() const { return engine_version_; }

  // The budget of calls that name none; `Budget::full()` at first.
  Budget budget() const { return plan()->budget.value_or(Budget::full()); }
  Expected<Done> set_budget(const Budget& budget) {
    return guarded<Done>([&] {
      SharedPlan made = planner_->for_budget(budget);
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        plan_ = std::move(made);
      }
      device_->reset();
      work_.reset();
      return Done{};
    });
  }

  // What a call under a budget would run, and what to expect of it.
  Expected<OperatingPoint> operating_point(const Budget& budget) const {
    return guarded<OperatingPoint>([&] { return planner_->for_budget(budget)->point; });
  }

  // Run a batch: an array for every input of the bundle, exactly of its dtype and shape. The batch may be empty.
  Expected<Result> run(const std::vector<NamedView>& inputs, const Call& call = {}) {
    return guarded<Result>([&] { return run_checked(inputs, call); });
  }

  // Measure what calls take on this device, keep it for later loads, and use it for budgets of latency. Without this
  // the first call under such a budget does it with its own inputs, unless the cache has a profile of this bundle,
  // engine, device, number of threads and batch size; that call is late.
  Expected<Profile> profile(const std::vector<NamedView>& inputs, double seconds = 3.0) {
    return guarded<Profile>([&] {
      Profile measured = measure(inputs, samples_of(inputs), seconds);
      device_->use(measured);
      return measured;
    });
  }

 private:
  Model(const std::string& folder, const Options& options) {
    threads_ = options.threads == 0 ? granted_processors().threads() : options.threads;
    if (threads_ < 1 || threads_ > 65'536) {
      throw Failure(ErrorKind::backend,
                    "got threads=" + std::to_string(options.threads) + ", expected 1 or more; pass that");
    }
    const std::filesystem::path root = bundle::bundle_root(folder);
    bundle_ = bundle::read_bundle(root, &hash_);
    OnnxRuntimeLibrary& library = OnnxRuntimeLibrary::open(options.library);
    check_providers(library, options.providers);
    engine_version_ = "onnxruntime " + library.version();
    if (names_of(options.providers) != cpu_provider) engine_version_ += " " + names_of(options.providers);
    engines_ = std::make_unique<Engines>(library, root, bundle_, threads_, options.providers);
    planner_ = std::make_unique<Planner>(bundle_, engines_->first());
    device_ = std::make_unique<DeviceBudgets>(*planner_);
    plan_ = planner_->for_budget(Budget::full());
  }

  SharedPlan plan() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return plan_;
  }

  Result run_checked(const std::vector<NamedView>& inputs, const Call& call) {
    const double entry = clock_seconds();
    if (call.knobs && call.budget) {
      throw Failure(ErrorKind::budget,
                    "got both a budget (" + call.budget->text() + ") and knobs, expected one of them; leave one out");
    }
    SharedPlan plan = call.knobs    ? planner_->for_knobs(*call.knobs)
                      : call.budget ? planner_->for_budget(*call.budget)
                                    : this->plan();
    std::vector<const TensorView*> arrays;
    AxisSizes sizes;
    engines_->inputs().check(inputs, arrays, sizes);
    if (call.deadline_ms) check_deadline(*call.deadline_ms);
    std::optional<Ticket> ticket;
    if (plan->budget && plan->budget->physical() && !has_nothing(sizes)) {
      const auto profiler = [&](int64_t batch) {
        const std::optional<Profile> kept = ProfileCache().load(key(batch));
        return kept ? *kept : measure(inputs, batch, 3.0);
      };
      ticket =
          device_->begin(*plan->budget, engines_->samples(sizes), clock_seconds(), call.budget.has_value(), profiler);
      plan = ticket->plan;
    }
    const double start = clock_seconds();
    std::optional<Deadline> deadline;
    if (call.deadline_ms) deadline = engines_->deadline(entry, *call.deadline_ms, arrays, sizes, plan->feeds);
    StagedOutputs got =
        engines_->run(arrays, sizes, plan->feeds, plan->thresholds, plan->everything, deadline ? &*deadline : nullptr);
    Result result;
    result.latency_ms = (clock_seconds() - start) * 1e3;
    const size_t macs = engines_->outputs().macs();
    result.macs_fraction = got.outputs[macs];
    for (size_t i = 0; i < got.outputs.size(); ++i) {
      if (i != macs) result.outputs.push_back({bundle_.outputs[i].name, std::move(got.outputs[i])});
    }
    if (ticket) {
      device_->end(*ticket, mean(result.macs_fraction), result.latency_ms, clock_seconds());
      result.expected = ticket->expected;
    }
    if (engines_->stages() > 1) result.exits = std::move(got.exits);
    result.budget = plan->budget;
    result.knobs = plan->point.knobs;
    result.reachable = plan->point.reachable;
    result.message = plan->message;
    if (plan->checked && !call.deadline_ms && result.macs_fraction.size() > 0) {
      std::string excess =
          work_.observe(plan->point.macs_fraction, result.macs_fraction.data<float>(), result.macs_fraction.size());
      if (result.message.empty()) result.message = std::move(excess);
    }
    if (call.deadline_ms) result.deadline_met = (clock_seconds() - entry) * 1e3 <= *call.deadline_ms;
    return result;
  }

  static bool has_nothing(const AxisSizes& sizes) { return std::find(sizes.begin(), sizes.end(), 0) != sizes.end(); }

  static double mean(const Tensor& shares) {
    double sum = 0;
    for (int64_t i = 0; i < shares.size(); ++i) sum += static_cast<double>(shares.data<float>()[i]);
    return sum / static_cast<double>(std::max<int64_t>(shares.size(), 1));
  }

  int64_t samples_of(const std::vector<NamedView>& inputs) const {
    std::vector<const TensorView*> arrays;
    AxisSizes sizes;
    engines_->inputs().check(inputs, arrays, sizes);
    if (has_nothing(sizes))
      throw Failure(ErrorKind::input, "got an empty batch to profile, expected at least one sample; give some");
    return engines_->samples(sizes);
  }

  DeviceKey key(int64_t batch) const {
    const Processors granted = granted_processors();
    return {hash_, engine_version_ + " C++", describe_device(), threads_, batch, granted.usable, granted.quota};
  }

  // Measure a profile of this batch, and keep it.
  Profile measure(const std::vector<NamedView>& inputs, int64_t batch, double seconds) {
    const auto [cheapest, full] = planner_->shares();
    std::vector<ProfilePoint> points;
    std::vector<Call> calls;
    for (const double share : profiling::shares(cheapest, full)) {
      OperatingPoint point = planner_->solve(Budget::fraction(share));
      points.push_back({share, 0, point.quality, 0, 0, 0});
      calls.push_back({std::nullopt, std::move(point.knobs), std::nullopt});
    }
    const auto call = [&](size_t number) {
      const Result result = run_checked(inputs, calls[number]);
      return std::make_pair(mean(result.macs_fraction), result.latency_ms);
    };
    Profile measured = measure_profile(call, std::move(points), key(batch), seconds);
    ProfileCache().store(measured);
    return measured;
  }

  void check_deadline(double milliseconds) const {
    if (!(0 < milliseconds && milliseconds < 1e15)) {
      throw Failure(ErrorKind::budget, "got deadline_ms=" + text::number(milliseconds) +
                                           ", expected milliseconds, a finite number above 0");
    }
    if (engines_->stages() == 1) {
      throw Failure(ErrorKind::budget,
                    "got a deadline, but bundle " + text::quoted(bundle_.name) +
                        " has no exits to answer early at; use Budget::latency, or export a model with exits");
    }
  }

  bundle::Bundle bundle_;
  std::string hash_, engine_version_;
  int threads_ = 1;
  std::unique_ptr<Engines> engines_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<DeviceBudgets> device_;
  mutable std::mutex mutex_;
  SharedPlan plan_;  // replaced whole, never changed
  SoftBudgetCheck work_;
};

// Load an exported folder; see `Model::load`.
inline Expected<std::unique_ptr<Model>> load(const std::string& folder, const Options& options = {}) {
  return Model::load(folder, options);
}

}  // namespace adaptrt
