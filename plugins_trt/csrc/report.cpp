#include "report.h"

#include <cstdio>
#include <cstring>
#include <mutex>

#include "tensorrt_library.h"

namespace adaptrt {
namespace {

std::mutex finderMutex;
nvinfer1::ILoggerFinder* loggerFinder = nullptr;

nvinfer1::ILogger* findLogger() {
  {
    std::lock_guard<std::mutex> const lock(finderMutex);
    if (loggerFinder != nullptr) {
      return loggerFinder->findLogger();
    }
  }
  return tensorrtLibrary().logger();
}

}  // namespace

void keepLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept {
  std::lock_guard<std::mutex> const lock(finderMutex);
  loggerFinder = finder;
}

void log(nvinfer1::ILogger::Severity severity, std::string const& message) noexcept {
  try {
    std::string const line = "adaptrt: " + message;
    if (nvinfer1::ILogger* const logger = findLogger()) {
      logger->log(severity, line.c_str());
    } else if (severity <= nvinfer1::ILogger::Severity::kWARNING) {
      std::fprintf(stderr, "%s\n", line.c_str());
    }
  } catch (...) {
    std::fputs("adaptrt: out of memory while reporting\n", stderr);
  }
}

void report(nvinfer1::IErrorRecorder* recorder, nvinfer1::ErrorCode code, char const* where,
            char const* message) noexcept {
  try {
    std::string const line = std::string(where) + ": " + message;
    log(nvinfer1::ILogger::Severity::kERROR, line);
    if (recorder != nullptr) {
      std::string const shortened = line.substr(0, nvinfer1::IErrorRecorder::kMAX_DESC_LENGTH);
      recorder->reportError(code, shortened.c_str());
    }
  } catch (...) {
    std::fputs("adaptrt: out of memory while reporting\n", stderr);
  }
}

}  // namespace adaptrt
