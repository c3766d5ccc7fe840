// What a call costs over the same calls of OrtRun, at batch 1 with everything running.
//
//   adaptrt_overhead LIBRARY BUNDLE CALLS
//
// Bare calls run each stage's session over values that were made beforehand; both take turns, so that what else the
// machine does falls on both. Prints one JSON object, times in microseconds.
#include <cstdio>
#include <cstdlib>

#include "adaptrt/adaptrt.hpp"

namespace {

using adaptrt::Value;

// The stages of a bundle without the runtime around them: OrtRun, over values and places that were found beforehand.
struct Bare {
  struct Stage {
    OrtSession* session;
    std::vector<const char*> names, wanted;
    std::vector<const OrtValue*> feeds;              // those that are carried are filled in call by call
    std::vector<std::pair<size_t, size_t>> carried;  // which feed, and which output of the stage before
  };
  const OrtApi* api;
  std::vector<Stage> stages;

  void run() {
    std::vector<OrtValue*> before, got;
    for (Stage& stage : stages) {
      for (const auto& [feed, output] : stage.carried) stage.feeds[feed] = before[output];
      got.assign(stage.wanted.size(), nullptr);
      if (api->Run(stage.session, nullptr, stage.names.data(), stage.feeds.data(), stage.feeds.size(),
                   stage.wanted.data(), stage.wanted.size(), got.data())) {
        std::abort();
      }
      for (OrtValue* value : before) api->ReleaseValue(value);
      before.swap(got);
    }
    for (OrtValue* value : before) api->ReleaseValue(value);
  }
};

double median_of(std::vector<double> times) { return adaptrt::control::median(std::move(times)) * 1e6; }

}  // namespace

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "got %d words, expected LIBRARY BUNDLE CALLS\n", count - 1);
    return 2;
  }
  try {
    auto model = adaptrt::load(words[2], {1, words[1], {}});
    if (!model) throw std::runtime_error(model.error().text);
    const auto& bundle = (*model)->bundle();
    auto& library = adaptrt::OnnxRuntimeLibrary::open(words[1]);
    Bare bare{&library.api(), {}};
    adaptrt::Sessions sessions;
    std::map<std::string, Value> given;
    std::vector<std::vector<char>> memory;
    std::vector<adaptrt::NamedView> inputs;
    const std::filesystem::path root = words[2];
    for (size_t i = 0; i < bundle.stages.size(); ++i) {
      adaptrt::SessionProgram program;
      program.model = adaptrt::bundle::read_file(std::filesystem::canonical(root), bundle.stages[i].file,
                                                 adaptrt::bundle::max_model_bytes);
      program.file = bundle.stages[i].file;
      program.alone = bundle.stages.size() == 1;
      sessions.push_back(std::make_unique<adaptrt::Session>(library, program));
    }
    for (const auto& spec : bundle.inputs) {
      adaptrt::Shape shape;
      for (const auto& size : spec.shape) shape.push_back(std::get_if<int64_t>(&size) ? std::get<int64_t>(size) : 1);
      const auto& record = *adaptrt::dtype_named(spec.dtype);
      memory.emplace_back(static_cast<size_t>(adaptrt::elements_of(shape)) * record.size);
      inputs.push_back({spec.name, {record.dtype, shape, memory.back().data()}});
      given[spec.name] = sessions[0]->wrap(inputs.back().array);
    }
    adaptrt::Planner planner(bundle, *sessions[0]);
    const adaptrt::SharedPlan plan = planner.for_budget(adaptrt::Budget::full());
    for (size_t i = 0; i < bundle.knobs.size(); ++i) given[bundle.knobs[i].name] = plan->feeds[i];
    for (size_t i = 0; i < sessions.size(); ++i) {
      Bare::Stage stage{sessions[i]->handle(), {}, {}, {}, {}};
      for (const auto& [name, tensor] : sessions[i]->inputs()) {
        const auto& carry = bundle.stages[i].carry;
        for (size_t j = 0; j < carry.size(); ++j) {
          if (carry[j].name == name) stage.carried.emplace_back(stage.names.size(), j);
        }
        stage.names.push_back(name.c_str());
        stage.feeds.push_back(given.count(name) ? given[name].get() : nullptr);
      }
      const bool last = i + 1 == sessions.size();
      for (const auto& spec : bundle.outputs) {
        if (last) stage.wanted.push_back(spec.name.c_str());
      }
      if (!last) {
        for (const auto& carry : bundle.stages[i + 1].carry) stage.wanted.push_back(carry.source.c_str());
      }
      bare.stages.push_back(std::move(stage));
    }
    const auto timed = [](const auto& call, std::vector<double>& times) {
      const double begun = adaptrt::clock_seconds();
      call();
      times.push_back(adaptrt::clock_seconds() - begun);
    };
    std::vector<double> alone, ours, with_budget;
    const adaptrt::Call none, half{adaptrt::Budget::fraction(1e9), {}, {}};
    for (int i = 0; i < std::atoi(words[3]); ++i) {
      timed([&] { bare.run(); }, alone);
      timed(
          [&] {
            if (!(*model)->run(inputs, none)) std::abort();
          },
          ours);
      if (bundle.budget_table && !bundle.budget_table->soft.empty())
        timed(
            [&] {
              if (!(*model)->run(inputs, half)) std::abort();
            },
            with_budget);
    }
    const double base = median_of(alone), full = median_of(ours) - base;
    std::printf("{\"stages\": %zu, \"bare_us\": %.2f, \"over_us\": %.2f, \"over_with_budget_us\": ",
                bundle.stages.size(), base, full);
    if (with_budget.empty())
      std::printf("null}\n");
    else
      std::printf("%.2f}\n", median_of(with_budget) - base);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
