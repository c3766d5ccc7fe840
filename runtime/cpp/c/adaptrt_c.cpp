// The C ABI over the C++ runtime: no exception leaves it, no pointer is trusted to be there.
#include "adaptrt.h"

#include <limits>

#include "adaptrt/adaptrt.hpp"

struct adaptrt_model {
  std::unique_ptr<adaptrt::Model> model;
};

struct adaptrt_result {
  adaptrt::Result result;
};

namespace {

thread_local std::string last_error;

adaptrt_status refuse(const char* message) {
  last_error = message;
  return ADAPTRT_ARGUMENT_ERROR;
}

adaptrt_status failed(const adaptrt::Error& error) {
  last_error = error.text;
  switch (error.kind) {
    case adaptrt::ErrorKind::bundle: return ADAPTRT_BUNDLE_ERROR;
    case adaptrt::ErrorKind::input: return ADAPTRT_INPUT_ERROR;
    case adaptrt::ErrorKind::budget: return ADAPTRT_BUDGET_ERROR;
    case adaptrt::ErrorKind::backend: return ADAPTRT_BACKEND_ERROR;
  }
  return ADAPTRT_BACKEND_ERROR;
}

// Run what may throw, as memory may run out.
template <class Call>
adaptrt_status caught(Call&& call) {
  try {
    return call();
  } catch (const std::exception& error) {
    return failed({adaptrt::ErrorKind::backend, error.what()});
  }
}

bool budget_of(const adaptrt_budget& given, adaptrt::Budget& budget) {
  if (given.kind < ADAPTRT_FULL || given.kind > ADAPTRT_LATENCY) return false;
  budget = {static_cast<adaptrt::BudgetKind>(given.kind), given.value, given.hard != 0, given.percentile};
  if (budget.physical() && budget.percentile == 0) budget.percentile = 0.95;
  return true;
}

bool inputs_of(const adaptrt_array* inputs, size_t count, std::vector<adaptrt::NamedView>& views) {
  if (!inputs && count) return false;
  for (size_t i = 0; i < count; ++i) {
    const adaptrt_array& one = inputs[i];
    if (!one.name || (!one.shape && one.rank) || one.dtype < ADAPTRT_BOOL || one.dtype > ADAPTRT_FLOAT64) return false;
    views.push_back(
        {one.name,
         {static_cast<adaptrt::DType>(one.dtype), adaptrt::Shape(one.shape, one.shape + one.rank), one.data}});
  }
  return true;
}

bool providers_of(const adaptrt_provider* providers, size_t count, adaptrt::Providers& all) {
  if (!providers && count) return false;
  for (size_t i = 0; i < count; ++i) {
    const adaptrt_provider& one = providers[i];
    if (!one.name || (one.count && (!one.keys || !one.values))) return false;
    adaptrt::Provider provider{one.name, {}};
    for (size_t k = 0; k < one.count; ++k) {
      if (!one.keys[k] || !one.values[k]) return false;
      provider.options.emplace_back(one.keys[k], one.values[k]);
    }
    all.push_back(std::move(provider));
  }
  return true;
}

constexpr const char* no_inputs =
    "got inputs with a null pointer or a number that is no adaptrt_dtype, expected both; fill all fields";
constexpr const char* no_budget = "got a budget whose kind is no adaptrt_budget_kind, expected one; fill all fields";

}  // namespace

static_assert(static_cast<int>(adaptrt::DType::float64) == ADAPTRT_FLOAT64);
static_assert(static_cast<int>(adaptrt::BudgetKind::latency) == ADAPTRT_LATENCY);

const char* adaptrt_version() { return ADAPTRT_VERSION; }
const char* adaptrt_last_error() { return last_error.c_str(); }

adaptrt_status adaptrt_load(const char* folder, const char* library, int32_t threads, adaptrt_model** model) {
  return adaptrt_load_with_providers(folder, library, threads, nullptr, 0, model);
}

adaptrt_status adaptrt_load_with_providers(const char* folder, const char* library, int32_t threads,
                                           const adaptrt_provider* providers, size_t provider_count,
                                           adaptrt_model** model) {
  return caught([&] {
    if (!folder || !model) return refuse("got a null pointer, expected a folder and a place for the model; pass both");
    *model = nullptr;
    adaptrt::Options options{threads, library ? library : "", {}};
    if (!providers_of(providers, provider_count, options.providers)) {
      return refuse("got providers with a null pointer, expected names and options; fill all fields");
    }
    auto loaded = adaptrt::load(folder, options);
    if (!loaded) return failed(loaded.error());
    *model = new adaptrt_model{std::move(*loaded)};
    return ADAPTRT_OK;
  });
}

void adaptrt_free_model(adaptrt_model* model) { delete model; }

adaptrt_status adaptrt_set_budget(adaptrt_model* model, const adaptrt_budget* budget) {
  return caught([&] {
    adaptrt::Budget wanted;
    if (!model || !budget) return refuse("got a null pointer, expected a model and a budget; pass both");
    if (!budget_of(*budget, wanted)) return refuse(no_budget);
    const auto done = model->model->set_budget(wanted);
    return done ? ADAPTRT_OK : failed(done.error());
  });
}

adaptrt_status adaptrt_profile(adaptrt_model* model, const adaptrt_array* inputs, size_t count, double seconds) {
  return caught([&] {
    std::vector<adaptrt::NamedView> views;
    if (!model) return refuse("got a null pointer, expected a model; pass one");
    if (!inputs_of(inputs, count, views)) return refuse(no_inputs);
    const auto done = model->model->profile(views, seconds);
    return done ? ADAPTRT_OK : failed(done.error());
  });
}

adaptrt_status adaptrt_run(adaptrt_model* model, const adaptrt_array* inputs, size_t count, const adaptrt_call* call,
                           adaptrt_result** result) {
  return caught([&] {
    std::vector<adaptrt::NamedView> views;
    adaptrt::Call wanted;
    if (!model || !result) return refuse("got a null pointer, expected a model and a place for the result; pass both");
    *result = nullptr;
    if (!inputs_of(inputs, count, views)) return refuse(no_inputs);
    if (call && call->budget) {
      adaptrt::Budget budget;
      if (!budget_of(*call->budget, budget)) return refuse(no_budget);
      wanted.budget = budget;
    }
    if (call && call->knobs) {
      wanted.knobs.emplace();
      for (size_t i = 0; i < call->knob_count; ++i) {
        const adaptrt_knob& knob = call->knobs[i];
        if (!knob.name || !knob.values)
          return refuse("got a knob with a null pointer, expected a name and values; fill all fields");
        if (knob.count == 1)
          wanted.knobs->insert_or_assign(knob.name, knob.values[0]);
        else
          wanted.knobs->insert_or_assign(knob.name, std::vector<double>(knob.values, knob.values + knob.count));
      }
    }
    if (call && call->deadline_ms != 0) wanted.deadline_ms = call->deadline_ms;
    auto ran = model->model->run(views, wanted);
    if (!ran) return failed(ran.error());
    *result = new adaptrt_result{std::move(*ran)};
    return ADAPTRT_OK;
  });
}

void adaptrt_free_result(adaptrt_result* result) { delete result; }

size_t adaptrt_output_count(const adaptrt_result* result) { return result ? result->result.outputs.size() : 0; }

adaptrt_status adaptrt_output(const adaptrt_result* result, size_t number, adaptrt_array* output) {
  return caught([&] {
    if (!result || !output || number >= result->result.outputs.size()) {
      return refuse(
          "got a null pointer or a number beyond the outputs, expected a result, one of its outputs and a place for "
          "it; pass these");
    }
    const auto& [name, array] = result->result.outputs[number];
    *output = {name.c_str(), static_cast<int32_t>(array.dtype()), array.shape().size(), array.shape().data(),
               array.bytes()};
    return ADAPTRT_OK;
  });
}

const float* adaptrt_macs_fraction(const adaptrt_result* result) {
  return result ? result->result.macs_fraction.data<float>() : nullptr;
}
size_t adaptrt_samples(const adaptrt_result* result) {
  return result ? static_cast<size_t>(result->result.macs_fraction.size()) : 0;
}
const int64_t* adaptrt_exits(const adaptrt_result* result) {
  return result && result->result.exits ? result->result.exits->data() : nullptr;
}
double adaptrt_latency_ms(const adaptrt_result* result) {
  return result ? result->result.latency_ms : std::numeric_limits<double>::quiet_NaN();
}
double adaptrt_expected_ms(const adaptrt_result* result) {
  return result ? result->result.expected.value_or(std::numeric_limits<double>::quiet_NaN())
                : std::numeric_limits<double>::quiet_NaN();
}
int32_t adaptrt_reachable(const adaptrt_result* result) { return result && result->result.reachable; }
int32_t adaptrt_deadline_met(const adaptrt_result* result) {
  return result && result->result.deadline_met ? *result->result.deadline_met : -1;
}
const char* adaptrt_message(const adaptrt_result* result) { return result ? result->result.message.c_str() : ""; }

const double* adaptrt_knob_values(const adaptrt_result* result, const char* name, size_t* count) {
  if (!result || !name || !count) return nullptr;
  for (const auto& [knob, value] : result->result.knobs) {
    if (knob != name) continue;
    const auto* list = std::get_if<std::vector<double>>(&value);
    *count = list ? list->size() : 1;
    return list ? list->data() : &std::get<double>(value);
  }
  return nullptr;
}
