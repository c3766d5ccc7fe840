// The kernels that this library carries, as generated from build/kernels/manifest.json by embed_kernels.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace adaptrt {

enum class ElementType : uint8_t { kFloat32, kFloat16, kBFloat16, kInt32, kInt64, kBool, kInt8 };

enum class ArgumentKind : uint8_t { kInput, kSize, kOutput };

struct KernelArgument {
  const char* name;
  ArgumentKind kind;
  ElementType type;  // of what the pointer points to; means nothing for a size
};

// One factor of a grid extent: ceil(size / per).
struct GridFactor {
  const char* size;
  int64_t per;
};

// When a kernel is taken: the named size is a multiple of one number and not below another.
struct Requirement {
  const char* size;
  int64_t multiple;
  int64_t least;
};

struct Image {
  size_t offset;
  size_t bytes;  // a PTX text's terminating zero is not counted
};

template <typename T>
struct Table {
  const T* first;
  size_t count;
  const T* begin() const { return first; }
  const T* end() const { return first + count; }
};

struct Kernel {
  const char* op;
  int version;
  const char* variant;
  int arch;  // compute capability, 87 for 8.7
  const char* entry;
  Table<KernelArgument> arguments;
  Table<GridFactor> grid[3];  // no factor: extent 1
  Table<Requirement> requirements;
  unsigned threads;
  unsigned shared_bytes;
  Image cubin;
  Image ptx;
  // PTX for one architecture alone (.target sm_90a) cannot be compiled for a later one.
  bool ptx_runs_on_later;
};

// Kernels of one op and architecture stand most special first, as in the manifest.
extern const Table<Kernel> kKernels;
extern const unsigned char* const kImages;
extern const char* const kSourceHash;

}  // namespace adaptrt
