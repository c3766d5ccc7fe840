// Running a network stage after stage, while those samples leave that are sure enough.
//
// After each stage but the last, a sample leaves if the confidence of that stage's head is strictly above its
// threshold; one whose confidence is NaN stays. What the others carry to the next stage is compacted to them. Where
// nobody leaves, the tensors go on as they are, without a copy.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adaptrt/compaction.hpp"
#include "adaptrt/device/stage_times.hpp"
#include "adaptrt/inputs.hpp"
#include "adaptrt/stage_interface.hpp"

namespace adaptrt {

// The outputs of a call in the bundle's order, each [batch, …], and the stage at which each sample left.
struct StagedOutputs {
  std::vector<Tensor> outputs;
  std::vector<int64_t> exits;
};

// The outputs of the samples that have left.
class Assembly {
 public:
  explicit Assembly(int64_t samples) : samples_(samples), rows_(all_rows(samples)) {}

  size_t stage = 0;
  int64_t there() const { return static_cast<int64_t>(rows_.size()); }

  // Take the outputs of those of the samples there that do not stay.
  void leave(const Session& session, const std::vector<std::string>& names, std::vector<Tensor> part,
             const std::vector<int64_t>& staying) {
    for (size_t i = 0; i < part.size() && !left_.empty(); ++i) {
      const Tensor &first = left_[0].part[i], &array = part[i];
      const bool fine = first.dtype() == array.dtype() && first.shape().size() == array.shape().size() &&
                        std::equal(first.shape().begin() + 1, first.shape().end(), array.shape().begin() + 1);
      if (fine) continue;
      Shape wanted = first.shape();
      std::string sizes = "batch";
      for (size_t axis = 1; axis < wanted.size(); ++axis) sizes += ", " + std::to_string(wanted[axis]);
      throw wrong(session, names[i], array, sizes);
    }
    Left one{stage, {}, {}, std::move(part)};
    std::vector<int64_t> rest;
    size_t next = 0;
    for (int64_t i = 0; i < there(); ++i) {
      const int64_t row = rows_[static_cast<size_t>(i)];
      if (next < staying.size() && staying[next] == i) {
        rest.push_back(row);
        ++next;
      } else {
        one.rows.push_back(row);
        one.places.push_back(i);
      }
    }
    rows_ = std::move(rest);
    left_.push_back(std::move(one));
  }

  // Every output in the caller's order.
  StagedOutputs result() {
    StagedOutputs all;
    all.exits.assign(static_cast<size_t>(samples_), 0);
    for (const Left& one : left_) {
      for (const int64_t row : one.rows) all.exits[static_cast<size_t>(row)] = static_cast<int64_t>(one.stage);
    }
    if (left_.size() == 1) {
      all.outputs = std::move(left_[0].part);
      return all;
    }
    for (size_t i = 0; i < left_[0].part.size(); ++i) {
      const Tensor& first = left_[0].part[i];
      Shape shape = first.shape();
      shape[0] = samples_;
      const size_t row = record_of(first.dtype()).size * static_cast<size_t>(elements_of(shape, 1));
      void* data = nullptr;
      all.outputs.push_back(Tensor::make(first.dtype(), std::move(shape), &data));
      for (const Left& one : left_) {
        const auto* from = static_cast<const char*>(one.part[i].bytes());
        for (size_t j = 0; j < one.rows.size() && row > 0; ++j) {
          std::memcpy(static_cast<char*>(data) + static_cast<size_t>(one.rows[j]) * row,
                      from + static_cast<size_t>(one.places[j]) * row, row);
        }
      }
    }
    return all;
  }

  static Failure wrong(const Session& session, const std::string& name, const Tensor& array, const std::string& sizes) {
    const std::string file = session.file().substr(session.file().rfind('/') + 1);
    return Failure(ErrorKind::backend, file + ": " + text::quoted(name) + " came out as " +
                                           record_of(array.dtype()).name + " " + shown(array.shape()) + ", expected [" +
                                           sizes + "]; run `adaptrt verify` on the bundle, or export the model again");
  }

 private:
  struct Left {
    size_t stage;
    std::vector<int64_t> rows;    // of the caller's samples
    std::vector<int64_t> places;  // where they stand in `part`
    std::vector<Tensor> part;
  };

  int64_t samples_;
  std::vector<int64_t> rows_;  // of the caller's samples those still there
  std::vector<Left> left_;
};

// The stages of one bundle; immutable, so any number of threads may run it.
class StageSequence {
 public:
  StageSequence(const bundle::Bundle& bundle, const Sessions& sessions) {
    std::map<std::string, size_t> given;  // inputs, then knobs
    const std::string batch = bundle::batch_axis(bundle).value_or("");
    for (const bundle::TensorSpec& spec : bundle.inputs) {
      per_sample_.push_back(!spec.shape.empty() && bundle::is_name(spec.shape[0], batch));
      given.emplace(spec.name, given.size());
    }
    inputs_ = given.size();
    for (const bundle::Knob& knob : bundle.knobs) given.emplace(knob.name, given.size());
    for (const bundle::TensorSpec& spec : bundle.outputs) outputs_.push_back(spec.name);
    for (size_t i = 0; i < sessions.size(); ++i) steps_.push_back(step(bundle, sessions, i, given));
    for (const Step& step : steps_) {
      for (const Passed& one : step.passed) passed_.insert(one.input);
    }
  }

  // Run a batch of at least one sample.
  //
  // `given` are the inputs, already checked, then the knobs. `thresholds` are for each stage but the last the
  // confidence above which a sample leaves; infinity spares the comparison. With a deadline a stage that would not
  // end by it is not begun: all leave before; the first always runs.
  StagedOutputs run(std::vector<Value> given, int64_t samples, const std::vector<float>& thresholds,
                    Deadline* deadline) const {
    std::map<size_t, Value> passed;
    for (const size_t input : passed_) passed[input] = given[input];
    std::vector<Value> carried, got;
    Assembly assembly(samples);
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Step& step = steps_[i];
      const bool last = i + 1 == steps_.size();
      const float threshold = last ? INFINITY : thresholds[i];
      // Where nobody can leave, nobody reads what the head says: each output fetched costs microseconds.
      const Fetch& fetch = std::isinf(threshold) && threshold > 0 && !deadline ? step.handed : step.fetched;
      const double begun = deadline ? clock_seconds() : 0.0;
      execute(step, fetch, given, carried, got);
      const int64_t there = assembly.there();
      if (deadline) deadline->took(i, there, clock_seconds() - begun);
      std::vector<int64_t> staying;
      if (!last)
        staying = std::isinf(threshold) && threshold > 0 ? all_rows(there) : unsure(step, fetch, got, there, threshold);
      const bool late = deadline && !staying.empty() && !deadline->fits(i + 1, static_cast<int64_t>(staying.size()));
      if (staying.empty() || late) {
        assembly.leave(*step.session, outputs_, part(step, fetch, got, there), {});
        break;
      }
      if (static_cast<int64_t>(staying.size()) < there) {
        assembly.leave(*step.session, outputs_, part(step, fetch, got, there), staying);
        carried = compacted(step, fetch, got, given, passed, staying, there);
      } else {
        carried = handed_on(step, fetch, got, passed);
      }
      ++assembly.stage;
    }
    return assembly.result();
  }

 private:
  // What is asked of a stage, and where in it the things are; -1 for what is not asked for.
  struct Fetch {
    std::vector<const char*> names;
    std::vector<int> outputs, carried;
    int confidence = -1;
  };
  // An input of the bundle that the next stage takes under a name of its own.
  struct Passed {
    size_t carry, input;
  };
  struct Step {
    const Session* session = nullptr;
    std::vector<const char*> feeds;                // names of what the graph takes
    std::vector<std::pair<bool, size_t>> sources;  // whether it is carried, and its number there or among the given
    Fetch fetched, handed;
    std::vector<bundle::Carry> next;  // what the next stage takes
    std::vector<Passed> passed;
    Compaction compaction;
    std::vector<size_t> later;  // inputs with a batch axis that stages after this one take
  };

  const char* intern(const std::string& name) { return names_.insert(name).first->c_str(); }

  Step step(const bundle::Bundle& bundle, const Sessions& sessions, size_t number,
            const std::map<std::string, size_t>& given) {
    Step step;
    step.session = sessions[number].get();
    const std::vector<bundle::Carry>& taken = bundle.stages[number].carry;
    for (const auto& [name, tensor] : step.session->inputs()) {
      const auto carry = std::find_if(taken.begin(), taken.end(),
                                      [&name = name](const bundle::Carry& one) { return one.name == name; });
      const bool is_carried = carry != taken.end();
      step.feeds.push_back(intern(name));
      step.sources.emplace_back(is_carried, is_carried ? static_cast<size_t>(carry - taken.begin()) : given.at(name));
    }
    const bool last = number + 1 == bundle.stages.size();
    if (!last) step.next = bundle.stages[number + 1].carry;
    std::vector<std::string> results = outputs_, handed;
    if (!last) results.push_back(bundle::confidence_output);
    for (size_t i = 0; i < step.next.size(); ++i) {
      const auto input = given.find(step.next[i].source);
      if (input != given.end() && input->second < inputs_)
        step.passed.push_back({i, input->second});
      else
        handed.push_back(step.next[i].source);
    }
    std::vector<std::string> fetched = results;
    fetched.insert(fetched.end(), handed.begin(), handed.end());
    step.fetched = fetch(fetched, step.next);
    step.handed = fetch(handed.empty() ? results : handed, step.next);
    step.compaction = Compaction(bundle, step.next);
    for (size_t input = 0; input < inputs_; ++input) {
      bool later = false;
      for (size_t i = number + 1; i < sessions.size(); ++i)
        later |= sessions[i]->inputs().count(bundle.inputs[input].name) == 1;
      if (later && per_sample_[input]) step.later.push_back(input);
    }
    return step;
  }

  Fetch fetch(const std::vector<std::string>& names, const std::vector<bundle::Carry>& next) {
    Fetch all;
    std::map<std::string, int> place;
    for (const std::string& name : names) {
      if (place.emplace(name, static_cast<int>(all.names.size())).second) all.names.push_back(intern(name));
    }
    const auto place_of = [&](const std::string& name) {
      const auto found = place.find(name);
      return found == place.end() ? -1 : found->second;
    };
    for (const std::string& name : outputs_) all.outputs.push_back(place_of(name));
    for (const bundle::Carry& carry : next) all.carried.push_back(place_of(carry.source));
    all.confidence = place_of(bundle::confidence_output);
    return all;
  }

  void execute(const Step& step, const Fetch& fetch, const std::vector<Value>& given, const std::vector<Value>& carried,
               std::vector<Value>& got) const {
    std::vector<const OrtValue*> feeds;
    feeds.reserve(step.sources.size());
    for (const auto& [is_carried, number] : step.sources) feeds.push_back((is_carried ? carried : given)[number].get());
    step.session->run(step.feeds, feeds, fetch.names, got);
  }

  // An output with an entry for each sample that the stage ran on.
  static Tensor output(const Step& step, const Value& value, const std::string& name, int64_t there, size_t rank = 0) {
    Tensor array = step.session->tensor(value);
    const bool fine =
        !array.shape().empty() && array.shape()[0] == there && (rank == 0 || array.shape().size() == rank);
    if (fine) return array;
    std::string sizes = std::to_string(there) + (rank == 0 ? ", ..." : "");
    for (size_t axis = 1; axis < rank; ++axis) sizes += ", ?";
    throw Assembly::wrong(*step.session, name, array, sizes);
  }

  // The bundle's outputs at this stage, for all samples that reached it.
  std::vector<Tensor> part(const Step& step, const Fetch& fetch, const std::vector<Value>& got, int64_t there) const {
    std::vector<Tensor> all;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      all.push_back(output(step, got[static_cast<size_t>(fetch.outputs[i])], outputs_[i], there));
    }
    return all;
  }

  // The rows whose confidence is not above the threshold; NaN is not.
  static std::vector<int64_t> unsure(const Step& step, const Fetch& fetch, const std::vector<Value>& got, int64_t there,
                                     float threshold) {
    const Tensor confidence =
        output(step, got[static_cast<size_t>(fetch.confidence)], bundle::confidence_output, there, 1);
    const float* values = confidence.data<float>();
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < there && values; ++i) {
      if (!(values[i] > threshold)) rows.push_back(i);
    }
    return rows;
  }

  // What the next stage takes, where all samples go on.
  std::vector<Value> handed_on(const Step& step, const Fetch& fetch, const std::vector<Value>& got,
                               const std::map<size_t, Value>& passed) const {
    std::vector<Value> feeds(step.next.size());
    for (size_t i = 0; i < step.next.size(); ++i) {
      if (fetch.carried[i] >= 0) feeds[i] = got[static_cast<size_t>(fetch.carried[i])];
    }
    for (const Passed& one : step.passed) feeds[one.carry] = passed.at(one.input);
    for (const Passed& one : step.passed) {
      if (step.compaction.token_axes(one.carry).empty()) continue;
      // An earlier stage may have cut the tokens that lie beside it.
      std::map<size_t, int64_t> widths;
      for (const auto& token : step.compaction.token_axes(one.carry))
        widths[token.mask] = step.session->tensor(feeds[token.mask]).shape().at(1);
      const Tensor array = step.session->tensor(feeds[one.carry]);
      const Shape sizes = step.compaction.cut(one.carry, array.shape(), widths);
      if (sizes != array.shape()) feeds[one.carry] = kept(step, taken(array.view(), all_rows(array.shape()[0]), sizes));
    }
    return feeds;
  }

  // What is carried on, and in `given` and `passed` the inputs for later stages, for `rows` alone.
  std::vector<Value> compacted(const Step& step, const Fetch& fetch, const std::vector<Value>& got,
                               std::vector<Value>& given, std::map<size_t, Value>& passed,
                               const std::vector<int64_t>& rows, int64_t there) const {
    const std::vector<Value> whole = handed_on(step, fetch, got, passed);
    std::vector<Tensor> arrays;
    std::vector<TensorView> views;
    for (size_t i = 0; i < whole.size(); ++i)
      arrays.push_back(output(step, whole[i], step.next[i].source, there, step.next[i].shape.size()));
    for (const Tensor& array : arrays) views.push_back(array.view());
    for (const size_t input : step.later) given[input] = rows_of(step, given[input], rows);
    std::vector<Value> values;
    for (Tensor& array : step.compaction.apply(views, rows)) values.push_back(kept(step, std::move(array)));
    for (auto& [input, value] : passed) {
      const auto same = [input = input](const Passed& one) { return one.input == input; };
      const auto found = std::find_if(step.passed.begin(), step.passed.end(), same);
      value = found == step.passed.end() ? rows_of(step, value, rows) : values[found->carry];
    }
    return values;
  }

  static Value rows_of(const Step& step, const Value& value, const std::vector<int64_t>& rows) {
    const Tensor array = step.session->tensor(value);
    return kept(step, taken(array.view(), rows, array.shape()));
  }

  // A value that keeps the memory of an array.
  static Value kept(const Step& step, Tensor array) {
    struct Held {
      Tensor array;
      Value value;
    };
    const Value value = step.session->wrap(array.view());
    const auto held = std::make_shared<Held>(Held{std::move(array), value});
    return Value(held, held->value.get());
  }

  std::set<std::string> names_;  // what the pointers in steps point to
  std::vector<std::string> outputs_;
  std::vector<bool> per_sample_;
  size_t inputs_ = 0;
  std::vector<Step> steps_;
  std::set<size_t> passed_;
};

}  // namespace adaptrt
