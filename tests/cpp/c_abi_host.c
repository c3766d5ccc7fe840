/* A program in C that drives the library through its C ABI, and says in JSON what came. */
#include <adaptrt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;

static void expect(int fine, const char* what) {
  if (fine) return;
  fprintf(stderr, "not so: %s (%s)\n", what, adaptrt_last_error());
  ++failures;
}

int main(int count, char** words) {
  adaptrt_model* model = NULL;
  adaptrt_result* result = NULL;
  float x[12], hint[4], scale[1] = {1.0f};
  const int64_t x_shape[] = {2, 6}, hint_shape[] = {2, 2}, scale_shape[] = {1};
  const double thresholds[] = {0.5, 0.5}, wrong[] = {9.5};
  size_t i, values = 0;
  if (count != 2) return 2;
  for (i = 0; i < 12; ++i) x[i] = (float)i / 8 - 0.5f;
  for (i = 0; i < 4; ++i) hint[i] = 0.25f;
  expect(strcmp(adaptrt_version(), ADAPTRT_VERSION) == 0, "the version is the header's");
  expect(adaptrt_load("/nowhere", NULL, 1, &model) == ADAPTRT_BUNDLE_ERROR && !model, "a folder that is not there");
  expect(strstr(adaptrt_last_error(), "/nowhere") != NULL, "the message names it");
  expect(adaptrt_load(NULL, NULL, 1, &model) == ADAPTRT_ARGUMENT_ERROR, "a null folder");
  expect(adaptrt_load(words[1], "/nowhere.so", 1, &model) == ADAPTRT_BACKEND_ERROR, "a library that is not there");
  expect(adaptrt_load(words[1], NULL, 1, &model) == ADAPTRT_OK && model, "a bundle");
  if (!model) return 1;
  adaptrt_array inputs[] = {{"x", ADAPTRT_FLOAT32, 2, x_shape, x}, {"hint", ADAPTRT_FLOAT32, 2, hint_shape, hint},
                            {"scale", ADAPTRT_FLOAT32, 1, scale_shape, scale}};
  adaptrt_budget half = {ADAPTRT_FRACTION, 0, 0.5, 0}, unknown = {17, 0, 0.5, 0}, negative = {ADAPTRT_MACS, 0, -1.0, 0};
  adaptrt_knob knobs[] = {{"exit_thresholds", thresholds, 2}}, too_high[] = {{"price", wrong, 1}};
  adaptrt_call by_budget = {&half, NULL, 0, 0}, by_knobs = {NULL, knobs, 1, 0}, by_wrong = {NULL, too_high, 1, 0};
  adaptrt_call by_both = {&half, knobs, 1, 0}, by_unknown = {&unknown, NULL, 0, 0}, in_time = {NULL, NULL, 0, 1e6};
  expect(adaptrt_set_budget(model, &half) == ADAPTRT_OK, "a budget");
  expect(adaptrt_set_budget(model, &negative) == ADAPTRT_BUDGET_ERROR, "a negative budget");
  expect(adaptrt_set_budget(model, &unknown) == ADAPTRT_ARGUMENT_ERROR, "a budget of no kind");
  expect(adaptrt_set_budget(model, NULL) == ADAPTRT_ARGUMENT_ERROR, "no budget");
  expect(adaptrt_run(model, inputs, 2, NULL, &result) == ADAPTRT_INPUT_ERROR && !result, "an input that is missing");
  expect(adaptrt_run(model, NULL, 2, NULL, &result) == ADAPTRT_ARGUMENT_ERROR, "no inputs");
  expect(adaptrt_run(model, inputs, 3, &by_wrong, &result) == ADAPTRT_INPUT_ERROR, "a knob above its limit");
  expect(adaptrt_run(model, inputs, 3, &by_both, &result) == ADAPTRT_BUDGET_ERROR, "a budget and knobs");
  expect(adaptrt_run(model, inputs, 3, &by_unknown, &result) == ADAPTRT_ARGUMENT_ERROR, "a call's budget of no kind");
  expect(adaptrt_run(model, inputs, 3, &in_time, &result) == ADAPTRT_OK && adaptrt_deadline_met(result) == 1, "a deadline");
  adaptrt_free_result(result);
  expect(adaptrt_run(model, inputs, 3, &by_knobs, &result) == ADAPTRT_OK, "knobs");
  const double* set = adaptrt_knob_values(result, "exit_thresholds", &values);
  expect(set && values == 2 && set[1] == 0.5, "the knobs that ran");
  expect(adaptrt_knob_values(result, "heat", &values) == NULL, "a knob that is none");
  adaptrt_free_result(result);
  expect(adaptrt_run(model, inputs, 3, &by_budget, &result) == ADAPTRT_OK, "a call");
  if (!result) return 1;
  adaptrt_array output;
  expect(adaptrt_output_count(result) == 1 && adaptrt_output(result, 0, &output) == ADAPTRT_OK, "an output");
  expect(adaptrt_output(result, 1, &output) == ADAPTRT_ARGUMENT_ERROR, "an output beyond");
  expect(adaptrt_output(result, 0, &output) == ADAPTRT_OK && output.rank == 2 && output.shape[0] == 2, "its shape");
  expect(adaptrt_samples(result) == 2 && adaptrt_reachable(result) == 1 && adaptrt_deadline_met(result) == -1, "what came");
  expect(isnan(adaptrt_expected_ms(result)) && adaptrt_latency_ms(result) > 0 && !*adaptrt_message(result), "times");
  adaptrt_free_model(model); /* results stay */
  printf("{\"name\": \"%s\", \"output\": [", output.name);
  for (i = 0; i < 6; ++i) printf("%s%.9g", i ? ", " : "", (double)((const float*)output.data)[i]);
  printf("], \"macs_fraction\": [%.9g, %.9g], ", (double)adaptrt_macs_fraction(result)[0], (double)adaptrt_macs_fraction(result)[1]);
  printf("\"exits\": [%d, %d]}\n", (int)adaptrt_exits(result)[0], (int)adaptrt_exits(result)[1]);
  adaptrt_free_result(result);
  adaptrt_free_result(NULL);
  adaptrt_free_model(NULL);
  return failures ? 1 : 0;
}
