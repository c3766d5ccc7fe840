// What the plugins know of each op: its tensors, their axes and types, its attributes, and the kernels that
// compute it one after the other. Everything else is the same for all ops and reads these tables.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <NvInferRuntime.h>

#include "kernel_table.h"

namespace adaptrt {

constexpr char const* kNamespace = "adaptrt";
constexpr char const* kVersion = "1";

// kReal is float32, float16 or bfloat16, the same one for all real tensors of a node. An op's int8 forms are contracts
// of their own, whose weights, scales and perhaps scratch have fixed types.
enum class TypeRule { kReal, kFloat32, kInt32, kInt64, kBool, kInt8 };

// An axis is a product of named sizes: {"T"} or {"N", "h"}.
using AxisRule = std::vector<char const*>;

struct TensorRule {
  char const* name;
  TypeRule type;
  std::vector<AxisRule> axes;
};

// What a text may be, and the number that stands for it where a kernel takes it.
struct Word {
  char const* text;
  int64_t value;
};

// Gives a size its value: a whole number itself, a text by its word.
struct AttributeRule {
  char const* name;
  char const* size;
  std::vector<Word> words;  // the default first; none: a whole number, which must be given

  bool isText() const { return !words.empty(); }
};

struct OpContract {
  char const* name;
  int version;
  std::vector<TensorRule> inputs;
  std::vector<TensorRule> outputs;
  std::vector<TensorRule> scratch;  // between the kernels, in the workspace
  std::vector<AttributeRule> attributes;
  std::vector<char const*> kernels;

  // null where the op has no tensor of that name; inputs, outputs and scratch are searched.
  TensorRule const* tensor(std::string const& name) const;
};

// Defined in the source that embed_kernels.py makes of ops.json.
std::vector<OpContract> const& opContracts();

// Values of named sizes, at most a handful.
class Sizes {
 public:
  void set(std::string const& name, int64_t value) { values_.emplace_back(name, value); }
  int64_t const* find(std::string const& name) const;
  // Throws Error where the name is unknown.
  int64_t at(std::string const& name) const;
  int64_t of(AxisRule const& axis) const;
  std::vector<std::pair<std::string, int64_t>> const& all() const { return values_; }

 private:
  std::vector<std::pair<std::string, int64_t>> values_;
};

// Reads a creator's fields into the sizes they give. Throws Error: a field that the op has not, of another type or
// value, a number that is missing, a version newer than ours.
Sizes readAttributes(OpContract const& contract, nvinfer1::PluginFieldCollection const* fields);

// The name of the int32 field that an engine keeps beside the attributes: the op's version.
constexpr char const* kOpVersion = "op_version";

// Finds every size from the tensors' dims. Throws Error: a wrong number of tensors or axes, sizes that disagree.
Sizes bindSizes(OpContract const& contract, Sizes const& attributes, std::vector<nvinfer1::Dims> const& tensors,
                bool withOutputs);

// The type that a rule asks for; real is what the node's real tensors are.
ElementType elementType(TypeRule rule, ElementType real);
nvinfer1::DataType dataType(ElementType type);
bool elementTypeOf(nvinfer1::DataType type, ElementType& found);
size_t elementBytes(ElementType type);
char const* typeName(ElementType type);

}  // namespace adaptrt
