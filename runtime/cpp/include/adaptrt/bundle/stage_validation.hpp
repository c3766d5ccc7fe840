// What the stages of a bundle must satisfy among each other, and the decisions that they tell.
#pragma once

#include <algorithm>
#include <set>
#include <string>

#include "adaptrt/bundle/tensor_validation.hpp"

namespace adaptrt::bundle {

inline constexpr size_t max_carried = 1'000;
inline constexpr size_t max_decisions = 10'000;
inline constexpr size_t max_token_sets = 100;

namespace stages {

inline void check_exits(const Bundle& bundle, const Knob* thresholds) {
  const std::string several = " with " + std::to_string(bundle.stages.size()) + " stages";
  const auto& criterion = bundle.exit_criterion;
  const bool known = criterion && std::find(std::begin(criteria), std::end(criteria), *criterion) != std::end(criteria);
  expect(
      known, [&] { return "exit_criterion: " + (criterion ? text::brief(*criterion) : "None") + several; },
      [] { return "one of " + text::joined({std::begin(criteria), std::end(criteria)}); });
  std::vector<std::string> heads;
  for (size_t i = 0; i < bundle.stages.size(); ++i) {
    heads.push_back(bundle.stages[i].exit.value_or(""));
    expect(
        !heads.back().empty(), [&] { return "stages[" + std::to_string(i) + "] exit: no name"; },
        "the name of its head, as there are several stages");
  }
  expect_unique("stages' exits", heads);
  const auto exits = static_cast<int64_t>(bundle.stages.size()) - 1;
  const bool fine = thresholds && thresholds->dtype == "float32" && thresholds->shape == std::vector<int64_t>{exits};
  const std::string where = "knobs '" + std::string(thresholds_knob) + "': ";
  expect(
      fine,
      [&] { return where + (thresholds ? thresholds->dtype + " " + shown(thresholds->shape) : "none") + several; },
      [&] { return "float32 [" + std::to_string(exits) + "]"; });
  expect(
      thresholds->default_value == infinity && thresholds->maximum == infinity,
      [&] {
        return where + "default " + text::number(thresholds->default_value) + ", maximum " +
               text::number(thresholds->maximum);
      },
      "infinity (null in JSON), at which no sample leaves");
}

inline void check_carry(const std::string& where, const Carry& carry, const std::string& batch) {
  expect_text(where, carry.name);
  expect_text(where + " source", carry.source);
  check_array(where, carry.dtype, carry.shape);
  bool fine = !carry.shape.empty() && is_name(carry.shape[0], batch);
  for (size_t axis = 1; axis < carry.shape.size(); ++axis) fine &= !is_name(carry.shape[axis], batch);
  expect(
      fine, [&] { return where + ": shape " + shown(carry.shape); },
      [&] { return text::quoted(batch) + " as its first axis and no other"; });
}

// Where samples part ways or are told about one by one, they must lie along one first axis.
inline void check_batch(const Bundle& bundle, const std::optional<std::string>& batch) {
  expect(batch.has_value(), std::string("outputs 'macs_fraction': a fixed number of samples"), "a named batch axis");
  bool batched = false;
  for (const TensorSpec& spec : bundle.inputs) {
    batched |= !spec.shape.empty() && is_name(spec.shape[0], *batch);
    for (size_t axis = 1; axis < spec.shape.size(); ++axis) {
      expect(
          !is_name(spec.shape[axis], *batch),
          [&] { return "inputs " + text::quoted(spec.name) + ": shape " + shown(spec.shape); },
          [&] { return text::quoted(*batch) + " as its first axis, or not at all"; });
    }
  }
  expect(
      batched, [&] { return "inputs: none has the axis " + text::quoted(*batch); },
      "one whose first axis it is, as of 'macs_fraction'");
}

// Each sample's outputs come from the stage where it left, and meet in one array.
inline void check_outputs(const Bundle& bundle, const std::string& batch) {
  std::set<std::string> axes;
  for (const TensorSpec& spec : bundle.inputs) {
    for (const Size& size : spec.shape) {
      if (const auto* name = std::get_if<std::string>(&size)) axes.insert(*name);
    }
  }
  axes.erase(batch);
  for (const TensorSpec& spec : bundle.outputs) {
    bool fine = !spec.shape.empty() && is_name(spec.shape[0], batch);
    for (size_t axis = 1; axis < spec.shape.size(); ++axis) {
      const auto* name = std::get_if<std::string>(&spec.shape[axis]);
      fine &= !name || axes.count(*name) == 1;
    }
    expect(
        fine,
        [&] {
          return "outputs " + text::quoted(spec.name) + ": shape " + shown(spec.shape) + " with " +
                 std::to_string(bundle.stages.size()) + " stages";
        },
        [&] { return text::quoted(batch) + ", then sizes that are the same in each stage"; });
    if (spec.name == confidence_output) {
      expect(
          spec.dtype == "float32" && spec.shape.size() == 1,
          [&] { return "outputs " + text::quoted(spec.name) + ": " + spec.dtype + " " + shown(spec.shape); },
          [&] { return "float32 [" + text::quoted(batch) + "]"; });
    }
  }
}

inline void check_carried(const Bundle& bundle, const std::optional<std::string>& batch) {
  std::vector<std::string> names;
  std::set<std::string> masks;
  for (const TensorSpec& spec : bundle.inputs) names.push_back(spec.name);
  for (const Knob& knob : bundle.knobs) names.push_back(knob.name);
  for (const auto& [name, tokens] : bundle.tokens) {
    if (tokens.valid) masks.insert(*tokens.valid);
  }
  for (size_t i = 0; i < bundle.stages.size(); ++i) {
    const std::string stage = "stages[" + std::to_string(i) + "]";
    std::vector<std::string> taken = names;
    for (const Carry& carry : bundle.stages[i].carry) {
      taken.push_back(carry.name);
      const std::string where = stage + " carry " + text::brief(carry.name);
      const auto got = [&] { return where + ": " + carry.dtype + " " + shown(carry.shape); };
      check_carry(where, carry, *batch);
      if (masks.count(carry.name)) {
        expect(carry.dtype == "bool" && carry.shape.size() == 2, got,
               [&] { return "bool [" + text::quoted(*batch) + ", 'tokens'], a mask of tokens"; });
      }
      for (const TensorSpec& source : bundle.inputs) {
        if (source.name != carry.source) continue;
        expect(
            carry.dtype == source.dtype && carry.shape == source.shape,
            [&] { return got() + " of the input " + text::brief(carry.source); },
            [&] { return source.dtype + " " + shown(source.shape) + " as of that input"; });
      }
    }
    expect_unique(stage + " inputs, knobs and carry", taken);
  }
}

}  // namespace stages

// Check what passes between the stages, who may leave, and what is told about it.
inline void check_stages(const Bundle& bundle) {
  const bool several = bundle.stages.size() > 1;
  const Knob* thresholds = nullptr;
  for (const Knob& knob : bundle.knobs) {
    if (knob.name == thresholds_knob) thresholds = &knob;
  }
  if (several) {
    stages::check_exits(bundle, thresholds);
  } else {
    expect(
        !bundle.exit_criterion,
        [&] { return "exit_criterion: " + text::quoted(*bundle.exit_criterion) + " with one stage"; }, "None");
    expect(!thresholds, std::string("knobs 'exit_thresholds' with one stage"), "none of that name");
  }
  bool decides = false;
  for (size_t i = 0; i < bundle.stages.size(); ++i) {
    const std::string where = "stages[" + std::to_string(i) + "]";
    const size_t carried = bundle.stages[i].carry.size();
    decides |= !bundle.stages[i].decisions.empty();
    if (bundle.stages[i].exit) expect_text(where + " exit", *bundle.stages[i].exit);
    if (i == 0)
      expect(
          carried == 0, [&] { return where + ": " + std::to_string(carried) + " carried tensors"; },
          "none in the first stage");
    else
      expect(
          carried >= 1 && carried <= max_carried, [&] { return where + ": " + std::to_string(carried) + " carried"; },
          [] { return "1 to " + std::to_string(max_carried); });
  }
  const std::optional<std::string> batch = batch_axis(bundle);
  if (several || decides) stages::check_batch(bundle, batch);
  if (several) stages::check_outputs(bundle, *batch);
  stages::check_carried(bundle, batch);
}

namespace decisions {

inline std::vector<std::string> roles_of(const std::string& kind) {
  if (kind == "learners") return {"runs"};
  if (kind == "selection") return {"count", "index"};
  return {};
}

inline void check_one(const std::string& where, const DecisionSpec& decision) {
  const std::vector<std::string> roles = roles_of(decision.kind);
  expect(!roles.empty(), [&] { return where + ": kind " + text::brief(decision.kind); }, "one of learners, selection");
  std::vector<std::string> got;
  for (const auto& [role, name] : decision.outputs) got.push_back(role);
  expect(
      got == roles,
      [&] {
        std::vector<std::string> each;
        for (const std::string& role : got) each.push_back(text::brief(role));
        return where + ": outputs " + text::joined(each, "none", 10);
      },
      decision.kind == "learners" ? "exactly 'runs'" : "exactly 'index', 'count'");
  for (const auto& [role, name] : decision.outputs) expect_text(where + " output", name);
  if (decision.kind == "selection")
    expect(decision.flat, [&] { return where + ": flat is false"; }, "true, as of every selection");
  else
    expect(decision.nested, [&] { return where + ": nested is false"; }, "true, as of all learners");
}

inline void check_tokens(const Bundle& bundle) {
  std::set<std::string> axes, carried;
  for (const TensorSpec& spec : bundle.inputs) {
    for (const Size& size : spec.shape) {
      if (const auto* name = std::get_if<std::string>(&size)) axes.insert(*name);
    }
  }
  for (const Stage& stage : bundle.stages) {
    for (const Carry& carry : stage.carry) carried.insert(carry.name);
  }
  expect(
      bundle.tokens.size() <= max_token_sets,
      [&] { return "tokens: " + std::to_string(bundle.tokens.size()) + " sets"; },
      [] { return "at most " + std::to_string(max_token_sets); });
  std::vector<std::string> masks;
  for (const auto& [name, tokens] : bundle.tokens) {
    expect_text("tokens", name);
    const std::string where = "tokens " + text::brief(name);
    if (tokens.size) {
      if (const auto* axis = std::get_if<std::string>(&*tokens.size)) {
        expect(
            axes.count(*axis) == 1, [&] { return where + ": axis " + text::brief(*axis); },
            [&] { return "an axis of the inputs (" + text::joined({axes.begin(), axes.end()}) + ")"; });
      } else {
        const int64_t size = std::get<int64_t>(*tokens.size);
        expect(
            1 <= size && size <= max_size, [&] { return where + ": size " + std::to_string(size); },
            [] { return "1 to " + std::to_string(max_size); });
      }
    }
    if (!tokens.valid) continue;
    masks.push_back(*tokens.valid);
    expect(
        carried.count(*tokens.valid) == 1,
        [&, &tokens = tokens] { return where + ": valid " + text::brief(*tokens.valid); },
        "the name of a tensor that some stage carries");
  }
  expect_unique("tokens' masks", masks);
}

}  // namespace decisions

// Check that every decision can be followed to the tokens that it is about. This runtime does not tell decisions.
inline void check_decisions(const Bundle& bundle) {
  decisions::check_tokens(bundle);
  size_t count = 0;
  for (const Stage& stage : bundle.stages) count += stage.decisions.size();
  expect(
      count <= max_decisions, [&] { return "stages: " + std::to_string(count) + " decisions"; },
      [] { return "at most " + std::to_string(max_decisions); });
  std::map<std::string, int64_t> next;
  std::set<std::string> sized, sets;
  for (const auto& [name, tokens] : bundle.tokens) {
    sets.insert(name);
    if (tokens.size) sized.insert(name);
  }
  for (size_t i = 0; i < bundle.stages.size(); ++i) {
    for (const DecisionSpec& decision : bundle.stages[i].decisions) {
      const std::string where = "stages[" + std::to_string(i) + "] decisions: " + text::brief(decision.kind) + " " +
                                std::to_string(decision.number);
      decisions::check_one(where, decision);
      int64_t& number = next[decision.kind];
      expect(decision.number == number, where, [&] { return "number " + std::to_string(number); });
      ++number;
      expect(
          sets.count(decision.of) == 1, [&] { return where + " of " + text::brief(decision.of); },
          [&] { return "a set of tokens (" + listed(sets) + ")"; });
      expect(
          sized.count(decision.of) == 1 || (i == 0 && decision.kind == "learners"),
          [&] { return where + ": the first about the tokens " + text::brief(decision.of) + " of no size"; },
          "how many a sample has at first, a number or the name of an axis of the inputs");
      sized.insert(decision.of);
    }
  }
  std::set<std::string> taken = {confidence_output};
  for (const TensorSpec& spec : bundle.outputs) taken.insert(spec.name);
  for (size_t i = 0; i < bundle.stages.size(); ++i) {
    std::vector<std::string> names(taken.begin(), taken.end());
    for (const DecisionSpec& decision : bundle.stages[i].decisions) {
      for (const auto& [role, name] : decision.outputs) names.push_back(name);
    }
    expect_unique("stages[" + std::to_string(i) + "] outputs and decisions", names);
  }
}

}  // namespace adaptrt::bundle
