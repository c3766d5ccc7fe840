#include "op_contract.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "report.h"

namespace adaptrt {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

TensorRule const* OpContract::tensor(std::string const& wanted) const {
  for (auto const* const group : {&inputs, &outputs, &scratch}) {
    for (TensorRule const& rule : *group) {
      if (wanted == rule.name) {
        return &rule;
      }
    }
  }
  return nullptr;
}

int64_t const* Sizes::find(std::string const& name) const {
  for (auto const& [known, value] : values_) {
    if (known == name) {
      return &value;
    }
  }
  return nullptr;
}

int64_t Sizes::at(std::string const& name) const {
  int64_t const* const value = find(name);
  if (value == nullptr) {
    throw invalidArgument("got a kernel that asks for the size " + name + ", which the op has not; make kernels again");
  }
  return *value;
}

int64_t Sizes::of(AxisRule const& axis) const {
  int64_t product = 1;
  for (char const* const name : axis) {
    int64_t const factor = at(name);
    if (factor != 0 && product > std::numeric_limits<int64_t>::max() / factor) {
      throw invalidArgument("got sizes whose product exceeds 63 bits");
    }
    product *= factor;
  }
  return product;
}

namespace {

int64_t wholeNumber(PluginField const& field) {
  if (field.length == 1 && field.data != nullptr) {
    if (field.type == PluginFieldType::kINT32) {
      int32_t value = 0;
      std::memcpy(&value, field.data, sizeof value);
      return value;
    }
    if (field.type == PluginFieldType::kINT64) {
      int64_t value = 0;
      std::memcpy(&value, field.data, sizeof value);
      return value;
    }
  }
  throw invalidArgument(std::string("attribute ") + field.name + " is not one whole number of 32 or 64 bits");
}

std::string textOf(PluginField const& field) {
  if (field.type != PluginFieldType::kCHAR || field.length < 0 || (field.data == nullptr && field.length != 0)) {
    throw invalidArgument(std::string("attribute ") + field.name + " is not a text");
  }
  std::string text(static_cast<char const*>(field.data), static_cast<size_t>(field.length));
  // Some callers count the terminating zero, the ONNX parser does not.
  while (!text.empty() && text.back() == '\0') {
    text.pop_back();
  }
  return text;
}

std::string joined(std::vector<char const*> const& words) {
  std::string all;
  for (char const* const word : words) {
    all += (all.empty() ? "" : ", ") + std::string(word);
  }
  return all;
}

void readAttribute(AttributeRule const& rule, PluginField const& field, Sizes& attributes) {
  if (!rule.isText()) {
    int64_t const value = wholeNumber(field);
    if (value < 1 || value > std::numeric_limits<int32_t>::max()) {
      throw invalidArgument(std::string("attribute ") + rule.name + " is " + std::to_string(value) +
                            ", expected 1 or more");
    }
    attributes.set(rule.size, value);
    return;
  }
  std::string const text = textOf(field);
  std::vector<char const*> known;
  for (Word const& word : rule.words) {
    if (text == word.text) {
      attributes.set(rule.size, word.value);
      return;
    }
    known.push_back(word.text);
  }
  throw invalidArgument(std::string("attribute ") + rule.name + " is \"" + text + "\", expected one of " +
                        joined(known));
}

// plugin_version and plugin_namespace find the creator and are no attributes of the op, but may be handed on.
bool readIdentity(OpContract const& contract, PluginField const& field) {
  std::string const name = field.name;
  if (name == kOpVersion) {
    int64_t const version = wholeNumber(field);
    if (version < 1 || version > contract.version) {
      throw invalidArgument("got version " + std::to_string(version) + " of the op, expected at most " +
                            std::to_string(contract.version) + "; use a newer libadaptrt_trt.so");
    }
    return true;
  }
  bool const isVersion = name == "plugin_version";
  if (isVersion || name == "plugin_namespace") {
    std::string const wanted = isVersion ? kVersion : kNamespace;
    std::string const text = textOf(field);
    if (text != wanted) {
      throw invalidArgument("got " + name + " \"" + text + "\", expected \"" + wanted + "\"" +
                            (isVersion ? "; use a newer libadaptrt_trt.so" : ""));
    }
    return true;
  }
  return false;
}

}  // namespace

Sizes readAttributes(OpContract const& contract, nvinfer1::PluginFieldCollection const* fields) {
  Sizes attributes;
  std::vector<AttributeRule const*> given;
  if (fields != nullptr && (fields->nbFields < 0 || (fields->nbFields > 0 && fields->fields == nullptr))) {
    throw invalidArgument("got an attribute list without attributes");
  }
  for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    PluginField const& field = fields->fields[i];
    if (field.name == nullptr) {
      throw invalidArgument("got an attribute without a name");
    }
    if (readIdentity(contract, field)) {
      continue;
    }
    auto const rule =
        std::find_if(contract.attributes.begin(), contract.attributes.end(),
                     [&](AttributeRule const& known) { return std::strcmp(known.name, field.name) == 0; });
    if (rule == contract.attributes.end()) {
      std::vector<char const*> names;
      for (AttributeRule const& known : contract.attributes) {
        names.push_back(known.name);
      }
      throw invalidArgument(std::string("got an attribute ") + field.name + ", expected " +
                            (names.empty() ? "none" : "only " + joined(names)));
    }
    if (std::find(given.begin(), given.end(), &*rule) != given.end()) {
      throw invalidArgument(std::string("got the attribute ") + field.name + " twice");
    }
    given.push_back(&*rule);
    readAttribute(*rule, field, attributes);
  }
  for (AttributeRule const& rule : contract.attributes) {
    if (std::find(given.begin(), given.end(), &rule) == given.end()) {
      if (!rule.isText()) {
        throw invalidArgument(std::string("got no attribute ") + rule.name + ", expected a whole number of 1 or more");
      }
      attributes.set(rule.size, rule.words.front().value);
    }
  }
  return attributes;
}

Sizes bindSizes(OpContract const& contract, Sizes const& attributes, std::vector<nvinfer1::Dims> const& tensors,
                bool withOutputs) {
  std::vector<TensorRule const*> rules;
  for (TensorRule const& rule : contract.inputs) {
    rules.push_back(&rule);
  }
  for (TensorRule const& rule : contract.outputs) {
    if (withOutputs) {
      rules.push_back(&rule);
    }
  }
  if (tensors.size() != rules.size()) {
    throw invalidArgument("got " + std::to_string(tensors.size()) + " tensors, expected " +
                          std::to_string(rules.size()));
  }
  Sizes sizes = attributes;
  auto const check = [&](TensorRule const& rule, nvinfer1::Dims const& dims, bool products) {
    for (size_t axis = 0; axis < rule.axes.size(); ++axis) {
      int64_t const got = dims.d[axis];
      if (got < 0 || got > std::numeric_limits<int32_t>::max()) {
        throw invalidArgument(std::string("axis ") + std::to_string(axis) + " of " + rule.name + " is " +
                              std::to_string(got) + ", expected 0 to 2147483647");
      }
      bool const single = rule.axes[axis].size() == 1;
      if (single && !products && sizes.find(rule.axes[axis][0]) == nullptr) {
        sizes.set(rule.axes[axis][0], got);
      } else if (single != products) {
        int64_t const wanted = sizes.of(rule.axes[axis]);
        if (got != wanted) {
          throw invalidArgument(std::string("axis ") + std::to_string(axis) + " of " + rule.name + " is " +
                                std::to_string(got) + ", expected " + std::to_string(wanted) +
                                " as other inputs and attributes have it");
        }
      }
    }
  };
  for (size_t i = 0; i < rules.size(); ++i) {
    if (tensors[i].nbDims != static_cast<int32_t>(rules[i]->axes.size())) {
      throw invalidArgument(std::string(rules[i]->name) + " has " + std::to_string(tensors[i].nbDims) +
                            " axes, expected " + std::to_string(rules[i]->axes.size()));
    }
    check(*rules[i], tensors[i], false);
  }
  for (size_t i = 0; i < rules.size(); ++i) {
    check(*rules[i], tensors[i], true);
  }
  return sizes;
}

ElementType elementType(TypeRule rule, ElementType real) {
  switch (rule) {
    case TypeRule::kFloat32: return ElementType::kFloat32;
    case TypeRule::kInt32: return ElementType::kInt32;
    case TypeRule::kInt64: return ElementType::kInt64;
    case TypeRule::kBool: return ElementType::kBool;
    case TypeRule::kInt8: return ElementType::kInt8;
    case TypeRule::kReal: break;
  }
  return real;
}

namespace {

struct TypeRow {
  ElementType type;
  DataType data;
  size_t bytes;
  char const* name;
};

constexpr TypeRow kTypes[] = {
    {ElementType::kFloat32, DataType::kFLOAT, 4, "float32"},  {ElementType::kFloat16, DataType::kHALF, 2, "float16"},
    {ElementType::kBFloat16, DataType::kBF16, 2, "bfloat16"}, {ElementType::kInt32, DataType::kINT32, 4, "int32"},
    {ElementType::kInt64, DataType::kINT64, 8, "int64"},      {ElementType::kBool, DataType::kBOOL, 1, "bool"},
    {ElementType::kInt8, DataType::kINT8, 1, "int8"},
};

TypeRow const& row(ElementType type) { return kTypes[static_cast<size_t>(type)]; }

}  // namespace

DataType dataType(ElementType type) { return row(type).data; }

size_t elementBytes(ElementType type) { return row(type).bytes; }

char const* typeName(ElementType type) { return row(type).name; }

bool elementTypeOf(DataType type, ElementType& found) {
  for (TypeRow const& known : kTypes) {
    if (known.data == type) {
      found = known.type;
      return true;
    }
  }
  return false;
}

}  // namespace adaptrt
