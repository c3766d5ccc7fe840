// The CUDA driver as the host uses it, the real one or its stand-in: memory, a stream, graphs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace adaptrt::host {

class Gpu {
 public:
  // Loads the driver at path and makes its first device's context current. Throws std::runtime_error.
  explicit Gpu(std::string const& path);

  using Address = unsigned long long;
  Address allocate(size_t bytes);
  void release(Address at);
  void write(Address at, std::vector<char> const& bytes);
  void fill(Address at, unsigned char value, size_t bytes);
  std::vector<char> read(Address at, size_t bytes);
  void* stream() const { return stream_; }
  void wait();

  void beginCapture();
  // Launches what was captured since, once.
  void launchCapture();

  // Of the stand-in, null in a real driver.
  void* symbol(char const* name) const;

 private:
  template <typename... Arguments>
  void call(char const* name, Arguments... arguments);

  void* library_ = nullptr;
  void* stream_ = nullptr;
};

}  // namespace adaptrt::host
