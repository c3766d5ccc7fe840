// The sessions of one loaded bundle, and what of the bundle they were made from.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adaptrt/bundle/bundle_files.hpp"
#include "adaptrt/outputs.hpp"
#include "adaptrt/stages.hpp"

namespace adaptrt {

// Runs all stages, or the dense model's graph in their place; any number of threads may use it.
class Engines {
 public:
  Engines(OnnxRuntimeLibrary& library, const std::filesystem::path& root, const bundle::Bundle& bundle, int threads,
          const Providers& providers)
      : bundle_(&bundle), axes_(bundle), inputs_(bundle, axes_), outputs_(bundle, axes_) {
    const std::optional<std::string> batch = bundle::batch_axis(bundle);
    if (batch) batch_ = axes_.of(*batch);
    const size_t count = bundle.stages.size();
    for (size_t i = 0; i < count; ++i) {
      const std::string place = count > 1 ? std::to_string(i) + "/" + std::to_string(count) : "";
      sessions_.push_back(session(library, root, bundle.stages[i], place, threads, providers));
    }
    check_interfaces(bundle, sessions_, root.string());
    stages_ = std::make_unique<StageSequence>(bundle, sessions_);
    const bundle::Dense& dense = bundle.dense;
    if (!dense.file) return;
    std::error_code error;
    const bundle::Stage file{*dense.file, dense.sha256.value_or(""), std::nullopt, dense.external_data, {}, {}};
    // A device may have left it out.
    if (!std::filesystem::exists(root / *dense.file, error)) return;
    if (!dense.runs_everything()) return;
    unsplit_ = session(library, root, file, "", threads, providers);
    check_unsplit(bundle, *unsplit_);
  }

  const Session& first() const { return *sessions_[0]; }
  const InputContract& inputs() const { return inputs_; }
  const OutputContract& outputs() const { return outputs_; }
  size_t stages() const { return sessions_.size(); }
  bool has_unsplit() const { return unsplit_ != nullptr; }

  // How many samples a call has; 1 where the bundle's batch has no name.
  int64_t samples(const AxisSizes& sizes) const { return batch_ < 0 ? 1 : sizes[static_cast<size_t>(batch_)]; }

  // Run checked inputs, in the bundle's order, with the knobs' values. Throws `Failure`.
  StagedOutputs run(const std::vector<const TensorView*>& arrays, const AxisSizes& sizes,
                    const std::vector<Value>& knobs, const std::vector<float>& thresholds, bool everything,
                    Deadline* deadline) const {
    StagedOutputs all;
    const bool empty = batch_ >= 0 && sizes[static_cast<size_t>(batch_)] == 0;
    if (empty) {
      if (auto outputs = outputs_.of_empty_batch(batch_, sizes)) {
        all.outputs = std::move(*outputs);
        return all;
      }
    }
    const bool whole = everything && unsplit_ && !deadline && !empty;
    if (whole || sessions_.size() == 1) {
      all = alone(whole ? *unsplit_ : *sessions_[0], arrays, sizes, knobs);
    } else {
      std::vector<Value> given = values(arrays);
      given.insert(given.end(), knobs.begin(), knobs.end());
      all = stages_->run(std::move(given), samples(sizes), thresholds, deadline);
    }
    outputs_.check(all.outputs, sizes);
    return all;
  }

  // The deadline of a call that began at `entry`; where the stages' times are not known they are measured.
  std::optional<Deadline> deadline(double entry, double milliseconds, const std::vector<const TensorView*>& arrays,
                                   const AxisSizes& sizes, const std::vector<Value>& knobs) {
    const int64_t rows = samples(sizes);
    if (rows == 0) return std::nullopt;  // no samples take no time
    if (!times_.knows(stages(), rows)) {
      Deadline patient(times_, bundle::infinity);
      std::vector<Value> given = values(arrays);
      given.insert(given.end(), knobs.begin(), knobs.end());
      const std::vector<float> never(stages() - 1, INFINITY);
      for (int i = 0; i < 16; ++i) stages_->run(given, rows, never, &patient);
    }
    return Deadline(times_, entry + milliseconds / 1e3);
  }

 private:
  std::unique_ptr<Session> session(OnnxRuntimeLibrary& library, const std::filesystem::path& root,
                                   const bundle::Stage& stage, const std::string& place, int threads,
                                   const Providers& providers) const {
    SessionProgram program;
    program.model = bundle::read_stage(root, stage, place);
    program.file = (root / stage.file).string();
    if (!stage.external_data.empty()) program.data_folder = (root / stage.file).parent_path().string();
    program.alone = bundle_->stages.size() == 1;
    program.threads = threads;
    program.providers = providers;
    return std::make_unique<Session>(library, program);
  }

  std::vector<Value> values(const std::vector<const TensorView*>& arrays) const {
    std::vector<Value> all;
    all.reserve(arrays.size() + bundle_->knobs.size());
    for (const TensorView* array : arrays) all.push_back(first().wrap(*array));
    return all;
  }

  // One graph that does everything; where it is the dense model's, its work goes without saying.
  StagedOutputs alone(const Session& session, const std::vector<const TensorView*>& arrays, const AxisSizes& sizes,
                      const std::vector<Value>& knobs) const {
    std::vector<const char*> names, wanted;
    std::vector<Value> values, got;
    std::vector<const OrtValue*> feeds;
    for (size_t i = 0; i < arrays.size(); ++i) {
      if (session.inputs().count(bundle_->inputs[i].name) == 0) continue;
      names.push_back(bundle_->inputs[i].name.c_str());
      values.push_back(session.wrap(*arrays[i]));
    }
    for (size_t i = 0; i < knobs.size(); ++i) {
      if (!knobs[i] || session.inputs().count(bundle_->knobs[i].name) == 0) continue;
      names.push_back(bundle_->knobs[i].name.c_str());
      values.push_back(knobs[i]);
    }
    for (const Value& value : values) feeds.push_back(value.get());
    std::vector<size_t> places;
    for (size_t i = 0; i < bundle_->outputs.size(); ++i) {
      if (session.outputs().count(bundle_->outputs[i].name) == 0) continue;
      wanted.push_back(bundle_->outputs[i].name.c_str());
      places.push_back(i);
    }
    session.run(names, feeds, wanted, got);
    StagedOutputs all;
    all.outputs.resize(bundle_->outputs.size());
    for (size_t i = 0; i < places.size(); ++i) all.outputs[places[i]] = session.tensor(got[i]);
    const int64_t count = samples(sizes);
    if (&session == unsplit_.get()) {
      if (!bundle_->dense.answers_full) all.outputs[outputs_.macs()] = ones(count);
      all.exits.assign(static_cast<size_t>(count), static_cast<int64_t>(stages()) - 1);
    }
    return all;
  }

  static Tensor ones(int64_t count) {
    void* data = nullptr;
    Tensor tensor = Tensor::make(DType::float32, {count}, &data);
    std::fill_n(static_cast<float*>(data), count, 1.0f);
    return tensor;
  }

  const bundle::Bundle* bundle_;
  AxisNames axes_;
  InputContract inputs_;
  OutputContract outputs_;
  int batch_ = -1;
  Sessions sessions_;
  std::unique_ptr<StageSequence> stages_;
  std::unique_ptr<Session> unsplit_;
  StageTimes times_;
};

}  // namespace adaptrt
