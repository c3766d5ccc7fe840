#include "phases.h"

namespace adaptrt::host {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3OneBuild;
using nvinfer1::PluginCapabilityType;
using nvinfer1::TensorFormat;

namespace {

constexpr int32_t kTypes = 10;    // of DataType in TensorRT 10.0
constexpr int32_t kFormats = 13;  // of TensorFormat

void expect(bool held, char const* phase) {
  if (!held) {
    throw PhaseFailed(phase);
  }
}

using Prefix = std::vector<std::pair<DataType, TensorFormat>>;

// Asks with two different junk values behind the position: an answer must not depend on what is not decided.
bool supports(IPluginV3OneBuild& plugin, Prefix const& prefix, int32_t inputs, int32_t outputs) {
  bool answers[2];
  for (int32_t junk = 0; junk < 2; ++junk) {
    std::vector<DynamicPluginTensorDesc> descs(static_cast<size_t>(inputs + outputs));
    for (size_t i = 0; i < descs.size(); ++i) {
      bool const decided = i < prefix.size();
      descs[i].desc.type = decided ? prefix[i].first : static_cast<DataType>(junk * 3);
      descs[i].desc.format = decided ? prefix[i].second : static_cast<TensorFormat>(junk * 4);
    }
    answers[junk] =
        plugin.supportsFormatCombination(static_cast<int32_t>(prefix.size()) - 1, descs.data(), inputs, outputs);
  }
  expect(answers[0] == answers[1], "supportsFormatCombination depends on undecided tensors");
  return answers[0];
}

std::vector<Prefix> supportedCombinations(IPluginV3OneBuild& plugin, int32_t inputs, int32_t outputs) {
  std::vector<Prefix> found{{}};
  for (int32_t position = 0; position < inputs + outputs; ++position) {
    std::vector<Prefix> longer;
    for (Prefix const& prefix : found) {
      for (int32_t type = 0; type < kTypes; ++type) {
        for (int32_t format = 0; format < kFormats; ++format) {
          Prefix candidate = prefix;
          candidate.emplace_back(static_cast<DataType>(type), static_cast<TensorFormat>(format));
          if (supports(plugin, candidate, inputs, outputs)) {
            longer.push_back(candidate);
          }
        }
      }
    }
    found = longer;
  }
  return found;
}

std::string combinationsText(std::vector<Prefix> const& combinations) {
  std::vector<std::string> lists;
  for (Prefix const& combination : combinations) {
    std::vector<std::string> types;
    for (auto const& [type, format] : combination) {
      types.push_back(jsonText(nameOf(type) + (format == TensorFormat::kLINEAR ? "" : " not linear")));
    }
    lists.push_back(jsonList(types));
  }
  return jsonList(lists);
}

std::vector<Field> fieldsOf(nvinfer1::PluginFieldCollection const* collection) {
  std::vector<Field> fields;
  for (int32_t i = 0; i < collection->nbFields; ++i) {
    nvinfer1::PluginField const& field = collection->fields[i];
    size_t const width = field.type == nvinfer1::PluginFieldType::kINT32 ? 4 : 1;
    auto const* const data = static_cast<char const*>(field.data);
    fields.push_back({field.name, field.type, field.length, {data, data + width * static_cast<size_t>(field.length)}});
  }
  return fields;
}

std::string fieldsText(std::vector<Field> const& fields) {
  JsonObject text;
  for (Field const& field : fields) {
    if (field.type == nvinfer1::PluginFieldType::kCHAR) {
      text.text(field.name, {field.bytes.begin(), field.bytes.end()});
    } else {
      int32_t value = 0;
      std::copy(field.bytes.begin(), field.bytes.end(), reinterpret_cast<char*>(&value));
      text.number(field.name, value);
    }
  }
  return text.str();
}

// As the network has it: -1 for a dynamic axis, one token at least, the most that the profile allows.
DynamicPluginTensorDesc describe(Input const& input) {
  DynamicPluginTensorDesc desc{};
  desc.desc.type = input.type;
  desc.desc.format = TensorFormat::kLINEAR;
  desc.max = desc.opt = desc.min = desc.desc.dims = input.most;
  for (size_t axis = 0; axis < input.axes.size(); ++axis) {
    if (input.axes[axis].find_first_not_of("0123456789") != std::string::npos) {
      desc.desc.dims.d[axis] = -1;
      desc.min.d[axis] = 1;
    }
  }
  return desc;
}

}  // namespace

Plugin create(Scenario const& scenario, nvinfer1::IPluginCreatorV3One& creator, std::vector<Field> const& fields,
              nvinfer1::TensorRTPhase phase) {
  // Copied and dropped behind the call: a plugin must not keep pointers into them.
  std::vector<Field> const copies = fields;
  std::vector<nvinfer1::PluginField> given;
  for (Field const& field : copies) {
    given.emplace_back(field.name.c_str(), field.bytes.data(), field.type, field.length);
  }
  nvinfer1::PluginFieldCollection const collection{static_cast<int32_t>(given.size()), given.data()};
  Plugin plugin(creator.createPlugin((scenario.plugin + "_0").c_str(), &collection, phase));
  expect(plugin != nullptr, "createPlugin");
  return plugin;
}

Built build(Scenario const& scenario, nvinfer1::IPluginCreatorV3One& creator, ExpressionBuilder& builder,
            JsonObject& report) {
  std::vector<std::string> names;
  nvinfer1::PluginFieldCollection const* const declared = creator.getFieldNames();
  for (int32_t i = 0; i < declared->nbFields; ++i) {
    names.push_back(jsonText(declared->fields[i].name));
  }
  report.add("fields", jsonList(names));

  Plugin const plugin = create(scenario, creator, scenario.fields, nvinfer1::TensorRTPhase::kBUILD);
  auto* const core =
      static_cast<nvinfer1::IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
  report.text("name", core->getPluginName());
  report.text("version", core->getPluginVersion());
  report.text("namespace", core->getPluginNamespace());

  auto* const capability = plugin->getCapabilityInterface(PluginCapabilityType::kBUILD);
  auto& own = static_cast<IPluginV3OneBuild&>(*capability);
  auto const inputs = static_cast<int32_t>(scenario.inputs.size());
  int32_t const outputs = own.getNbOutputs();
  std::vector<Prefix> const combinations = supportedCombinations(own, inputs, outputs);
  report.add("formats", combinationsText(combinations));

  Built built;
  std::vector<DataType> inputTypes;
  std::vector<DynamicPluginTensorDesc> inputDescs;
  std::vector<DimsExprs> inputShapes;
  std::map<std::string, int64_t> most;
  for (Input const& input : scenario.inputs) {
    inputTypes.push_back(input.type);
    inputDescs.push_back(describe(input));
    DimsExprs shape{};
    shape.nbDims = static_cast<int32_t>(input.axes.size());
    for (size_t axis = 0; axis < input.axes.size(); ++axis) {
      shape.d[axis] = builder.axis(input.axes[axis]);
      most[input.axes[axis]] = input.most.d[axis];
    }
    inputShapes.push_back(shape);
  }
  built.outputTypes.resize(static_cast<size_t>(outputs));
  expect(own.getOutputDataTypes(built.outputTypes.data(), outputs, inputTypes.data(), inputs) == 0,
         "getOutputDataTypes");
  std::vector<std::string> types;
  for (DataType const type : built.outputTypes) {
    types.push_back(jsonText(nameOf(type)));
  }
  report.add("output_types", jsonList(types));

  std::vector<DimsExprs> outputShapes(static_cast<size_t>(outputs));
  expect(own.getOutputShapes(inputShapes.data(), inputs, nullptr, 0, outputShapes.data(), outputs, builder) == 0,
         "getOutputShapes");
  std::vector<std::string> shapes;
  std::vector<DynamicPluginTensorDesc> outputDescs;
  for (size_t i = 0; i < outputShapes.size(); ++i) {
    std::vector<std::string> axes;
    std::vector<Expression const*> expressions;
    DynamicPluginTensorDesc desc{};
    desc.desc.type = built.outputTypes[i];
    desc.max.nbDims = desc.desc.dims.nbDims = outputShapes[i].nbDims;
    for (int32_t axis = 0; axis < outputShapes[i].nbDims; ++axis) {
      expressions.push_back(static_cast<Expression const*>(outputShapes[i].d[axis]));
      axes.push_back(jsonText(expressions.back()->text()));
      desc.desc.dims.d[axis] = -1;
      desc.max.d[axis] = expressions.back()->value(most);
    }
    desc.min = desc.opt = desc.max;
    shapes.push_back(jsonList(axes));
    built.outputShapes.push_back(expressions);
    outputDescs.push_back(desc);
  }
  report.add("output_shapes", jsonList(shapes));

  expect(own.configurePlugin(inputDescs.data(), inputs, outputDescs.data(), outputs) == 0, "configurePlugin");
  built.workspace = own.getWorkspaceSize(inputDescs.data(), inputs, outputDescs.data(), outputs);
  report.number("workspace", static_cast<long long>(built.workspace));

  auto* const runtime =
      static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  nvinfer1::PluginFieldCollection const* const serialized = runtime->getFieldsToSerialize();
  expect(serialized != nullptr, "getFieldsToSerialize");
  built.fields = fieldsOf(serialized);
  report.add("serialized", fieldsText(built.fields));
  return built;
}

}  // namespace adaptrt::host
