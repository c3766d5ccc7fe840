// Stands in for a TensorRT of another major version: says so, and fails the test where it is used all the same.
#include <cstdint>
#include <cstdlib>

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int32_t getInferLibVersion() noexcept { return ADAPTRT_OTHER_MAJOR * 10000; }
EXPORT void* getPluginRegistry() noexcept { std::abort(); }
EXPORT void* getLogger() noexcept { std::abort(); }
