// Does what a file of requests says with bundles, and writes what came, for tests/cpp to compare with Python.
//
//   adaptrt_conformance REQUESTS.json REPLIES
//
// Requests are a list of objects with `op`; replies are REPLIES.json, one for each, and REPLIES.bin with their arrays.
// An array is `{"dtype", "shape", "offset"}` into the file that `arrays` of the request names, or into REPLIES.bin.
#include <atomic>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "adaptrt/adaptrt.hpp"

namespace {

using Json = nlohmann::ordered_json;  // inputs in the order of the request

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("no file " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

Json plain(const adaptrt::bundle::KnobValues& knobs) {
  Json all = Json::object();
  const auto number = [](double value) { return std::isinf(value) ? Json() : Json(value); };
  for (const auto& [name, value] : knobs) {
    if (const auto* list = std::get_if<std::vector<double>>(&value)) {
      all[name] = Json::array();
      for (const double one : *list) all[name].push_back(number(one));
    } else {
      all[name] = number(std::get<double>(value));
    }
  }
  return all;
}

adaptrt::Knobs knobs_of(const Json& entries) {
  adaptrt::Knobs knobs;
  const auto number = [](const Json& value) {
    return value.is_null() ? adaptrt::bundle::infinity : value.get<double>();
  };
  for (const auto& [name, value] : entries.items()) {
    if (!value.is_array()) {
      knobs[name] = number(value);
      continue;
    }
    std::vector<double> list;
    for (const Json& one : value) list.push_back(number(one));
    knobs[name] = list;
  }
  return knobs;
}

adaptrt::Budget budget_of(const Json& entry) {
  const std::string kind = entry.at("kind");
  if (kind == "full") return adaptrt::Budget::full();
  const double value = entry.at("value").is_null() ? adaptrt::bundle::infinity : entry.at("value").get<double>();
  if (kind == "latency") return adaptrt::Budget::latency(value, entry.value("percentile", 0.95));
  return kind == "macs" ? adaptrt::Budget::macs(value, entry.value("hard", false))
                        : adaptrt::Budget::fraction(value, entry.value("hard", false));
}

class Runner {
 public:
  Json reply(const Json& request) {
    const std::string op = request.at("op");
    if (op == "load") return load(request);
    if (op == "run") return run(request);
    if (op == "threads") return threads(request);
    if (op == "budget") return done(model().set_budget(budget_of(request.at("budget"))));
    if (op == "profile") return profile(request);
    if (op == "look_up") return look_up(request);
    if (op == "parse") return parse(request);
    if (op == "trace") return trace(request);
    if (op == "quantiles") return quantiles(request);
    throw std::runtime_error("no op " + op);
  }

  const std::string& arrays() const { return written_; }

 private:
  static Json failed(const adaptrt::Error& error) {
    return {{"error", adaptrt::name_of(error.kind)}, {"text", error.text}};
  }
  static Json done(const adaptrt::Expected<adaptrt::Done>& result) {
    return result ? Json{{"ok", true}} : failed(result.error());
  }

  adaptrt::Model& model() {
    if (!model_) throw std::runtime_error("no bundle was loaded");
    return *model_;
  }

  Json load(const Json& request) {
    model_.reset();
    adaptrt::Options options;
    options.threads = request.value("threads", 1);
    options.library = request.value("library", "");
    for (const Json& entry : request.value("providers", Json::array())) {
      adaptrt::Provider provider{entry.at("name"), {}};
      const Json given = entry.value("options", Json::object());
      for (const auto& [key, value] : given.items()) {
        provider.options.emplace_back(key, value);
      }
      options.providers.push_back(provider);
    }
    auto loaded = adaptrt::load(request.at("bundle"), options);
    if (!loaded) return failed(loaded.error());
    model_ = std::move(*loaded);
    return {{"ok", true}, {"version", model_->engine_version()}};
  }

  const std::string& file(const std::string& path) {
    auto found = files_.find(path);
    if (found == files_.end()) found = files_.emplace(path, read(path)).first;
    return found->second;
  }

  std::vector<adaptrt::NamedView> inputs(const Json& request) {
    std::vector<adaptrt::NamedView> all;
    for (const auto& [name, entry] : request.at("inputs").items()) {
      const adaptrt::DTypeRecord* record = adaptrt::dtype_named(entry.at("dtype").get<std::string>());
      const std::string& content = file(request.at("arrays"));
      all.push_back({name,
                     {record->dtype, entry.at("shape").get<adaptrt::Shape>(),
                      content.data() + entry.at("offset").get<size_t>()}});
    }
    return all;
  }

  static adaptrt::Call call(const Json& request) {
    adaptrt::Call call;
    if (request.contains("budget")) call.budget = budget_of(request["budget"]);
    if (request.contains("knobs")) call.knobs = knobs_of(request["knobs"]);
    if (request.contains("deadline_ms")) call.deadline_ms = request["deadline_ms"].get<double>();
    return call;
  }

  Json write(const adaptrt::Tensor& array) {
    const Json entry = {
        {"dtype", adaptrt::record_of(array.dtype()).name}, {"shape", array.shape()}, {"offset", written_.size()}};
    written_.append(static_cast<const char*>(array.bytes()), array.view().bytes());
    written_.resize((written_.size() + 7) / 8 * 8);
    return entry;
  }

  Json run(const Json& request) {
    const auto result = model().run(inputs(request), call(request));
    if (!result) return failed(result.error());
    Json reply = {{"ok", true},
                  {"knobs", plain(result->knobs)},
                  {"reachable", result->reachable},
                  {"message", result->message},
                  {"latency_ms", result->latency_ms},
                  {"outputs", Json::array()}};
    for (const auto& [name, array] : result->outputs) {
      Json entry = write(array);
      entry["name"] = name;
      reply["outputs"].push_back(entry);
    }
    reply["macs_fraction"] = write(result->macs_fraction);
    if (result->exits) reply["exit"] = *result->exits;
    if (result->expected) reply["expected"] = *result->expected;
    if (result->deadline_met) reply["deadline_met"] = *result->deadline_met;
    return reply;
  }

  // Every call of `calls` from a thread of its own, `times` times; whether all answers of a call are the same bytes.
  Json threads(const Json& request) {
    std::vector<std::thread> running;
    std::atomic<int> differing{0};
    for (const Json& one : request.at("calls")) {
      const auto fed = inputs(one);
      running.emplace_back([&, fed, called = call(one)] {
        std::string first;
        for (int i = 0; i < request.value("times", 50); ++i) {
          const auto result = model().run(fed, called);
          std::string bytes = result ? "" : result.error().text;
          for (size_t j = 0; result && j < result->outputs.size(); ++j) {
            const adaptrt::Tensor& array = result->outputs[j].array;
            bytes.append(static_cast<const char*>(array.bytes()), array.view().bytes());
          }
          if (first.empty()) first = bytes;
          differing += !result || bytes != first;
        }
      });
    }
    for (std::thread& thread : running) thread.join();
    return {{"differing", differing.load()}};
  }

  Json profile(const Json& request) {
    const auto profile = model().profile(inputs(request), request.value("seconds", 0.1));
    return profile ? Json{{"ok", true}, {"profile", Json::parse(adaptrt::profile_cache::to_json(*profile))}}
                   : failed(profile.error());
  }

  Json look_up(const Json& request) {
    const auto& bundle = model().bundle();
    std::map<std::string, adaptrt::DType> dtypes;
    for (const auto& knob : bundle.knobs) dtypes[knob.name] = adaptrt::dtype_named(knob.dtype)->dtype;
    Json replies = Json::array();
    for (const Json& one : request.at("look_ups")) {
      const auto& rows = one.at("table") == "soft" ? bundle.budget_table->soft : bundle.budget_table->hard;
      const adaptrt::Answer answer = adaptrt::look_up(rows, one.at("share"), dtypes);
      replies.push_back({{"knobs", plain(answer.knobs)},
                         {"work", answer.work},
                         {"quality", answer.quality ? Json(*answer.quality) : Json()},
                         {"reachable", answer.reachable}});
    }
    return {{"ok", true}, {"answers", replies}};
  }

  // Whether a `bundle.json` passes all checks that need no file.
  Json parse(const Json& request) {
    const std::string content =
        request.contains("json") ? request["json"].get<std::string>() : read(request.at("file"));
    try {
      adaptrt::bundle::check_bundle(adaptrt::bundle::decode_bundle(content));
    } catch (const adaptrt::bundle::Invalid& error) {
      return {{"error", "bundle"}, {"text", error.what()}};
    }
    return {{"ok", true}};
  }

  // Replay a recorded trace; largest relative difference of its numbers, and how many flags differ.
  static Json trace(const Json& request) {
    std::ifstream file(request.at("file").get<std::string>());
    std::string line;
    std::getline(file, line);
    const Json config = Json::parse(line).at("config");
    adaptrt::control::ControllerOptions options;
    options.percentile = config.at("percentile");
    options.noise = config.at("noise");
    options.cold = config.at("cold").get<std::vector<double>>();
    options.idle_after = config.at("idle_after");
    if (!config.at("limits").is_null())
      options.limits = {config["limits"][0].get<double>(), config["limits"][1].get<double>()};
    adaptrt::control::LatencyController controller(config.at("target"),
                                                   {config.at("curve").at("fractions").get<std::vector<double>>(),
                                                    config["curve"].at("responses").get<std::vector<double>>()},
                                                   options);
    double largest = 0;
    int flags = 0, calls = 0;
    while (std::getline(file, line)) {
      const Json call = Json::parse(line);
      if (!call[11].is_null()) controller.set_target(call[11]);
      const adaptrt::control::Choice choice = controller.choose(call[0], call[1]);
      const double got[] = {choice.fraction, choice.expected, choice.upper};
      for (size_t i = 0; i < 3; ++i) {
        const double wanted = call[i + 2];
        largest = std::max(largest, std::fabs(got[i] - wanted) / std::max(std::fabs(wanted), 1e-9));
      }
      flags += choice.reachable != call[5].get<bool>();
      flags += (choice.cold ? Json(*choice.cold) : Json()) != call[6];
      flags += choice.steered != call[7].get<bool>();
      if (call[10].is_null())
        controller.passed(call[8], choice);
      else
        controller.observe(call[8], choice, call[9], call[10], call[1]);
      ++calls;
    }
    return {{"largest", largest}, {"flags", flags}, {"calls", calls}};
  }

  static Json quantiles(const Json& request) {
    std::vector<double> values;
    for (const double share : request.at("shares").get<std::vector<double>>())
      values.push_back(adaptrt::control::normal_quantile(share, 1.0, 0.05));
    return {{"values", values}};
  }

  std::unique_ptr<adaptrt::Model> model_;
  std::map<std::string, std::string> files_;
  std::string written_;
};

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::cerr << "got " << count - 1 << " words, expected REQUESTS.json REPLIES\n";
    return 2;
  }
  try {
    Runner runner;
    Json replies = Json::array();
    for (const Json& request : Json::parse(read(words[1]))) replies.push_back(runner.reply(request));
    std::ofstream(words[2] + std::string(".json")) << replies.dump();
    std::ofstream(words[2] + std::string(".bin"), std::ios::binary) << runner.arrays();
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
