/* The C ABI of adaptrt: for Swift, Rust, C# and whatever else calls C. docs/embed.md has an example.
 *
 * A function that can fail gives a status; adaptrt_last_error() then says in one line, for the calling thread, what was
 * got, what was expected and what to do. Models may be used from any number of threads. Texts are UTF-8. */
#ifndef ADAPTRT_H
#define ADAPTRT_H

#include <stddef.h>
#include <stdint.h>

#define ADAPTRT_VERSION "0.1.0"

#if defined(__GNUC__)
#define ADAPTRT_API __attribute__((visibility("default")))
#else
#define ADAPTRT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct adaptrt_model adaptrt_model;
typedef struct adaptrt_result adaptrt_result;

/* Who can mend it. */
typedef enum {
  ADAPTRT_OK = 0,
  ADAPTRT_BUNDLE_ERROR = 1,
  ADAPTRT_INPUT_ERROR = 2,
  ADAPTRT_BUDGET_ERROR = 3,
  ADAPTRT_BACKEND_ERROR = 4,
  ADAPTRT_ARGUMENT_ERROR = 5 /* a null pointer, or a number that names nothing */
} adaptrt_status;

typedef enum {
  ADAPTRT_BOOL = 0,
  ADAPTRT_UINT8 = 1,
  ADAPTRT_UINT16 = 2,
  ADAPTRT_UINT32 = 3,
  ADAPTRT_UINT64 = 4,
  ADAPTRT_INT8 = 5,
  ADAPTRT_INT16 = 6,
  ADAPTRT_INT32 = 7,
  ADAPTRT_INT64 = 8,
  ADAPTRT_FLOAT16 = 9,
  ADAPTRT_FLOAT32 = 10,
  ADAPTRT_FLOAT64 = 11
} adaptrt_dtype;

typedef enum { ADAPTRT_FULL = 0, ADAPTRT_FRACTION = 1, ADAPTRT_MACS = 2, ADAPTRT_LATENCY = 3 } adaptrt_budget_kind;

/* An array, row-major and without gaps. `dtype` is an adaptrt_dtype. */
typedef struct {
  const char* name;
  int32_t dtype;
  size_t rank;
  const int64_t* shape;
  const void* data;
} adaptrt_array;

/* `kind` is an adaptrt_budget_kind; `hard` of work only, `percentile` of latency only, where 0 stands for 0.95. */
typedef struct {
  int32_t kind;
  int32_t hard;
  double value;
  double percentile;
} adaptrt_budget;

/* A knob's values: one for all of its elements, or one for each. */
typedef struct {
  const char* name;
  const double* values;
  size_t count;
} adaptrt_knob;

/* What a call may say beside its inputs; all 0 takes the model's budget. */
typedef struct {
  const adaptrt_budget* budget; /* of this call; null: the model's */
  const adaptrt_knob* knobs;    /* instead of a budget; null: none. Those that are not named stand at their defaults */
  size_t knob_count;
  double deadline_ms; /* from the call's entry; 0: none */
} adaptrt_call;

/* An execution provider of ONNX Runtime, such as "TensorrtExecutionProvider", and `count` options of it, such as
 * "trt_extra_plugin_lib_paths". */
typedef struct {
  const char* name;
  const char* const* keys;
  const char* const* values;
  size_t count;
} adaptrt_provider;

/* "0.1.0" of the library that runs. */
ADAPTRT_API const char* adaptrt_version(void);
/* What went wrong last in this thread; an empty text if nothing did. Stands until its next failure. */
ADAPTRT_API const char* adaptrt_last_error(void);

/* Load a bundle. `library` is the path of libonnxruntime (null: $ADAPTRT_ONNXRUNTIME, or what the system finds),
 * `threads` what one operator may use (0: the physical cores that the process may run on). */
ADAPTRT_API adaptrt_status adaptrt_load(const char* folder, const char* library, int32_t threads,
                                        adaptrt_model** model);
/* The same with ONNX Runtime's execution providers, in order of preference; all of them must start. None: the CPU. */
ADAPTRT_API adaptrt_status adaptrt_load_with_providers(const char* folder, const char* library, int32_t threads,
                                                       const adaptrt_provider* providers, size_t provider_count,
                                                       adaptrt_model** model);
/* No call may be running. Results that are still held stay as they are. */
ADAPTRT_API void adaptrt_free_model(adaptrt_model* model);
/* The budget of calls that name none; everything runs at first. */
ADAPTRT_API adaptrt_status adaptrt_set_budget(adaptrt_model* model, const adaptrt_budget* budget);
/* Measure what calls with such inputs take on this device, for about so many seconds, and keep it. */
ADAPTRT_API adaptrt_status adaptrt_profile(adaptrt_model* model, const adaptrt_array* inputs, size_t count,
                                           double seconds);
/* Run a batch. `call` may be null. The result is the caller's, to be freed. */
ADAPTRT_API adaptrt_status adaptrt_run(adaptrt_model* model, const adaptrt_array* inputs, size_t count,
                                       const adaptrt_call* call, adaptrt_result** result);

/* What `adaptrt_run` gave. Pointers stay good until the result is freed. */
ADAPTRT_API void adaptrt_free_result(adaptrt_result* result);
ADAPTRT_API size_t adaptrt_output_count(const adaptrt_result* result);
ADAPTRT_API adaptrt_status adaptrt_output(const adaptrt_result* result, size_t number, adaptrt_array* output);
/* The share of the dense work that each of `adaptrt_samples` samples used. */
ADAPTRT_API const float* adaptrt_macs_fraction(const adaptrt_result* result);
ADAPTRT_API size_t adaptrt_samples(const adaptrt_result* result);
/* The stage at whose head each sample left; null with one stage. */
ADAPTRT_API const int64_t* adaptrt_exits(const adaptrt_result* result);
ADAPTRT_API double adaptrt_latency_ms(const adaptrt_result* result);
/* Milliseconds that half of such calls were expected to stay under; NaN without a budget of latency. */
ADAPTRT_API double adaptrt_expected_ms(const adaptrt_result* result);
/* 0 where the budget is below the cheapest point, which then ran. */
ADAPTRT_API int32_t adaptrt_reachable(const adaptrt_result* result);
/* 1 or 0; -1 where the call had no deadline. */
ADAPTRT_API int32_t adaptrt_deadline_met(const adaptrt_result* result);
/* What the user should know; an empty text if nothing. */
ADAPTRT_API const char* adaptrt_message(const adaptrt_result* result);
/* The values of a knob, `count` of them, 1 where it is the same for all elements; null for an unknown name. */
ADAPTRT_API const double* adaptrt_knob_values(const adaptrt_result* result, const char* name, size_t* count);

#ifdef __cplusplus
}
#endif

#endif
