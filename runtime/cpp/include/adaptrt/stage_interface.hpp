// Comparing the inputs and outputs of a stage's graph with what its bundle declares.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adaptrt/bundle/bundle_files.hpp"
#include "adaptrt/session.hpp"

namespace adaptrt {

using Sessions = std::vector<std::unique_ptr<Session>>;

namespace stage_interface {

struct Declared {
  std::string name, dtype;
  bundle::Sizes shape;
};

// Whether two descriptions can be of one tensor: a size fixed in the bundle may be dynamic in the graph, the other way
// round an input would be refused at the first call. ONNX Runtime gives an unknown rank as no axes.
inline bool agree(const Declared& declared, const GraphTensor& actual, bool fed) {
  if (declared.dtype != actual.dtype) return false;
  if (actual.shape.empty() && !fed) return true;
  if (declared.shape.size() != actual.shape.size()) return false;
  for (size_t axis = 0; axis < actual.shape.size(); ++axis) {
    const bundle::Size &want = declared.shape[axis], &have = actual.shape[axis];
    const bool named = std::holds_alternative<std::string>(want);
    if (!(want == have || std::holds_alternative<std::string>(have) || (named && !fed))) return false;
  }
  return true;
}

inline void compare(const std::string& file, const Declared& spec, const GraphTensor& actual, bool fed) {
  if (agree(spec, actual, fed)) return;
  bundle::fail(file + ": " + text::quoted(spec.name) + " is " + actual.dtype + " " + bundle::shown(actual.shape) +
               " in the graph, expected " + spec.dtype + " " + bundle::shown(spec.shape) +
               " as bundle.json declares; export the model again");
}

template <class Entries>
std::string names_of(const Entries& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.push_back(entry.first);
  return "[" + bundle::quoted_list(names) + "]";
}

// What a caller's call feeds to the graphs.
inline std::vector<Declared> given(const bundle::Bundle& bundle) {
  std::vector<Declared> all;
  for (const bundle::TensorSpec& spec : bundle.inputs) all.push_back({spec.name, spec.dtype, spec.shape});
  for (const bundle::Knob& knob : bundle.knobs) {
    if (knob.name != bundle::thresholds_knob)
      all.push_back({knob.name, knob.dtype, {knob.shape.begin(), knob.shape.end()}});
  }
  return all;
}

// All outputs that a stage's graph must have.
inline std::vector<Declared> outputs_of(const bundle::Bundle& bundle, size_t number) {
  std::vector<Declared> all;
  std::set<std::string> inputs;
  const bundle::Size batch = bundle::batch_axis(bundle).value_or("?");
  for (const bundle::TensorSpec& spec : bundle.outputs) all.push_back({spec.name, spec.dtype, spec.shape});
  for (const bundle::TensorSpec& spec : bundle.inputs) inputs.insert(spec.name);
  const bool last = number + 1 == bundle.stages.size();
  if (!last) all.push_back({bundle::confidence_output, "float32", {batch}});
  for (const bundle::DecisionSpec& decision : bundle.stages[number].decisions) {
    for (const auto& [role, name] : decision.outputs) {
      const size_t rank = (role == "index" ? 2 : 1) + (decision.flat ? 0 : 1);
      all.push_back({name, "int32", bundle::Sizes(rank, bundle::Size(std::string("?")))});
    }
  }
  if (!last) {
    for (const bundle::Carry& carry : bundle.stages[number + 1].carry) {
      if (inputs.count(carry.source) == 0) all.push_back({carry.source, carry.dtype, carry.shape});
    }
  }
  return all;
}

inline void check_stage(const bundle::Bundle& bundle, size_t number, const Session& session) {
  const bool several = bundle.stages.size() > 1;
  const std::string as = std::string(" as bundle.json declares") +
                         (several ? " for this stage; the stages were mixed up:" : ";") + " export the model again";
  std::map<std::string, Declared> must, declared;
  std::map<std::string, bool> free;
  for (const bundle::Carry& carry : bundle.stages[number].carry)
    declared[carry.name] = {carry.name, carry.dtype, carry.shape};
  if (several) must = declared;
  for (const Declared& spec : given(bundle)) {
    declared[spec.name] = spec;
    free[spec.name] = true;
  }
  if (!several) must = declared;
  bool fine = true;
  for (const auto& [name, spec] : must) fine &= session.inputs().count(name) == 1;
  for (const auto& [name, tensor] : session.inputs()) fine &= declared.count(name) == 1;
  if (!fine) {
    bundle::fail(session.file() + ": the graph's inputs are " + names_of(session.inputs()) + ", expected " +
                 names_of(must) + (several ? ", and any of " + names_of(free) + "," : "") + as);
  }
  const std::vector<Declared> outputs = outputs_of(bundle, number);
  for (const Declared& spec : outputs) {
    if (session.outputs().count(spec.name)) continue;
    bundle::fail(session.file() + ": the graph's outputs are " + names_of(session.outputs()) + ", expected " +
                 text::quoted(spec.name) + " among them" + as);
  }
  for (const auto& [name, tensor] : session.inputs()) compare(session.file(), declared.at(name), tensor, true);
  for (const Declared& spec : outputs) compare(session.file(), spec, session.outputs().at(spec.name), false);
}

}  // namespace stage_interface

// Check every stage's graph, and that together they take all inputs and knobs. Throws `Failure`.
inline void check_interfaces(const bundle::Bundle& bundle, const Sessions& sessions, const std::string& folder) {
  std::set<std::string> taken;
  for (size_t i = 0; i < sessions.size(); ++i) {
    stage_interface::check_stage(bundle, i, *sessions[i]);
    for (const auto& [name, tensor] : sessions[i]->inputs()) taken.insert(name);
    for (const bundle::Carry& carry : bundle.stages[i].carry) taken.insert(carry.source);
  }
  for (const auto& spec : stage_interface::given(bundle)) {
    if (taken.count(spec.name)) continue;
    bundle::fail(folder + ": no stage's graph has the input " + text::quoted(spec.name) +
                 " that bundle.json declares; export the model again");
  }
}

// Check the graph that stands for all stages: it takes the bundle's inputs and gives its outputs, and where it is no
// other network its work goes without saying.
inline void check_unsplit(const bundle::Bundle& bundle, const Session& session) {
  using stage_interface::Declared;
  std::map<std::string, Declared> inputs, outputs;
  for (const bundle::TensorSpec& spec : bundle.inputs) inputs[spec.name] = {spec.name, spec.dtype, spec.shape};
  for (const bundle::TensorSpec& spec : bundle.outputs) {
    if (bundle.dense.answers_full || spec.name != bundle::macs_output)
      outputs[spec.name] = {spec.name, spec.dtype, spec.shape};
  }
  bool fine = true;
  for (const auto& [name, tensor] : session.inputs()) fine &= inputs.count(name) == 1;
  for (const auto& [name, spec] : outputs) fine &= session.outputs().count(name) == 1;
  if (!fine) {
    bundle::fail(session.file() + ": the graph's inputs are " + stage_interface::names_of(session.inputs()) +
                 " and its outputs " + stage_interface::names_of(session.outputs()) + ", expected some of " +
                 stage_interface::names_of(inputs) + " and " + stage_interface::names_of(outputs) +
                 ", as it stands for all stages; export the model again");
  }
  for (const auto& [name, tensor] : session.inputs())
    stage_interface::compare(session.file(), inputs.at(name), tensor, true);
  for (const auto& [name, spec] : outputs)
    stage_interface::compare(session.file(), spec, session.outputs().at(name), false);
}

}  // namespace adaptrt
