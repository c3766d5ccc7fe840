// Where errors go: TensorRT's error recorder and its logger. Inside the library an error is an exception with
// TensorRT's code; guarded() turns it into a report and a return value at every function that TensorRT calls.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include <NvInferRuntime.h>

namespace adaptrt {

// A message says what was got, what was expected and what to do, in one line.
class Error : public std::runtime_error {
 public:
  Error(nvinfer1::ErrorCode code, std::string const& message) : std::runtime_error(message), code_(code) {}
  nvinfer1::ErrorCode code() const noexcept { return code_; }

 private:
  nvinfer1::ErrorCode code_;
};

inline Error invalidArgument(std::string const& message) {
  return Error(nvinfer1::ErrorCode::kINVALID_ARGUMENT, message);
}

// Given by TensorRT when it loads the library through a plugin registry; stays its caller's.
void keepLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Writes to TensorRT's logger, or to stderr while there is none.
void log(nvinfer1::ILogger::Severity severity, std::string const& message) noexcept;

// Logs the whole message and hands as much of it to the recorder as the recorder takes. recorder may be null.
void report(nvinfer1::IErrorRecorder* recorder, nvinfer1::ErrorCode code, char const* where,
            char const* message) noexcept;

// Gives what action gives; reports whatever it throws and gives failed instead.
template <typename Result, typename Action>
Result guarded(nvinfer1::IErrorRecorder* recorder, char const* where, Result failed, Action const& action) noexcept {
  try {
    return action();
  } catch (Error const& error) {
    report(recorder, error.code(), where, error.what());
  } catch (std::bad_alloc const&) {
    report(recorder, nvinfer1::ErrorCode::kFAILED_ALLOCATION, where, "out of host memory");
  } catch (std::exception const& error) {
    report(recorder, nvinfer1::ErrorCode::kINTERNAL_ERROR, where, error.what());
  } catch (...) {
    report(recorder, nvinfer1::ErrorCode::kINTERNAL_ERROR, where, "unknown exception");
  }
  return failed;
}

}  // namespace adaptrt
