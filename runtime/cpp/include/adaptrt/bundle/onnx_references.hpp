// What an ONNX file refers to and says about itself, found without protobuf, before ONNX Runtime sees the file.
//
// ONNX Runtime up to 1.23 opens whatever path a tensor's `external_data` names, outside the model's folder too.
// Whatever protobuf could read in more than one way is refused, so that it cannot see a reference that this walk did
// not. Field numbers: onnx.proto (they never change). Wire format: protobuf.dev/programming-guides/encoding.
#pragma once

#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace adaptrt::bundle {

// The bytes are no well-formed ModelProto; becomes a bundle's error once the file is known.
class NotOnnx : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One field of a message: where its content lies; an empty range at -1 for what has no length.
struct Field {
  uint64_t number;
  int64_t start, stop;
};

// The fields of the message in `data[position:end]`, one after the other.
class FieldReader {
 public:
  FieldReader(std::string_view data, int64_t position, int64_t end) : data_(data), position_(position), end_(end) {}

  bool next(Field& field) {
    if (position_ >= end_) return false;
    const uint64_t tag = varint();
    const uint64_t number = tag >> 3, wire = tag & 7;
    field = {number, -1, -1};
    if (number == 0 || tag >= uint64_t{1} << 32) fail("field number " + std::to_string(number));
    if (wire == 2) {
      const uint64_t length = varint();
      if (length > static_cast<uint64_t>(end_ - position_)) truncated();
      field.start = position_;
      field.stop = position_ += static_cast<int64_t>(length);
    } else if (wire == 0) {
      varint();
    } else if (wire == 1 || wire == 5) {
      position_ += wire == 1 ? 8 : 4;
    } else {
      fail("wire type " + std::to_string(wire));
    }
    if (position_ > end_) truncated();
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    int shift = 0;
    while (position_ < end_) {
      const auto byte = static_cast<unsigned char>(data_[static_cast<size_t>(position_++)]);
      // What lies above 64 bits is no length and no field number of this format.
      if (shift == 63 && (byte & 0x7E)) fail("number above 64 bits");
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
      shift += 7;
      if (shift >= 70) fail("number of more than 10 bytes");
    }
    truncated();
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw NotOnnx(what + " at byte " + std::to_string(position_));
  }
  [[noreturn]] void truncated() const { throw NotOnnx("truncated at byte " + std::to_string(end_)); }

  std::string_view data_;
  int64_t position_, end_;
};

enum class OnnxMessage {
  none,
  model,
  training_info,
  graph,
  function,
  node,
  attribute,
  sparse_tensor,
  tensor,
  entry,
  key,
  value
};

inline OnnxMessage child_of(OnnxMessage message, uint64_t field) {
  using M = OnnxMessage;
  switch (message) {
    case M::model: return field == 7 ? M::graph : field == 20 ? M::training_info : field == 25 ? M::function : M::none;
    case M::training_info: return field == 1 || field == 2 ? M::graph : M::none;
    case M::graph: return field == 1 ? M::node : field == 5 ? M::tensor : field == 15 ? M::sparse_tensor : M::none;
    case M::function: return field == 7 ? M::node : field == 11 ? M::attribute : M::none;
    case M::node: return field == 5 ? M::attribute : M::none;
    case M::attribute:
      return field == 5 || field == 10    ? M::tensor
             : field == 6 || field == 11  ? M::graph
             : field == 22 || field == 23 ? M::sparse_tensor
                                          : M::none;
    case M::sparse_tensor: return field == 1 || field == 2 ? M::tensor : M::none;
    case M::tensor: return field == 13 ? M::entry : M::none;
    case M::entry: return field == 1 ? M::key : field == 2 ? M::value : M::none;
    default: return M::none;
  }
}

// The locations of all external data that an ONNX file refers to, anywhere in it, as they stand there, unchecked.
inline std::set<std::string> external_locations(std::string_view model) {
  constexpr int64_t most_fields = 20'000'000;  // more is an attempt to keep the reader busy
  struct Part {
    OnnxMessage message;
    int64_t start, stop;
  };
  std::set<std::string> locations;
  std::vector<Part> pending = {{OnnxMessage::model, 0, static_cast<int64_t>(model.size())}};
  int64_t seen = 0;
  while (!pending.empty()) {
    const Part part = pending.back();
    pending.pop_back();
    bool located = false;
    std::vector<std::string> values;
    FieldReader fields(model, part.start, part.stop);
    for (Field field; fields.next(field);) {
      if (++seen > most_fields) throw NotOnnx("more than " + std::to_string(most_fields) + " fields");
      const OnnxMessage child = field.start >= 0 ? child_of(part.message, field.number) : OnnxMessage::none;
      if (child == OnnxMessage::none) continue;
      const auto content = [&] {
        return model.substr(static_cast<size_t>(field.start), static_cast<size_t>(field.stop - field.start));
      };
      if (child == OnnxMessage::key)
        located |= content() == "location";
      else if (child == OnnxMessage::value)
        values.emplace_back(content());
      else
        pending.push_back({child, field.start, field.stop});
    }
    if (located && values.empty()) values.emplace_back();
    if (located) locations.insert(values.begin(), values.end());
  }
  return locations;
}

// All values that an ONNX file has under a key of its `metadata_props`; more than one is an odd file.
inline std::vector<std::string> metadata_props(std::string_view model, std::string_view key) {
  std::vector<std::string> texts;
  FieldReader fields(model, 0, static_cast<int64_t>(model.size()));
  for (Field field; fields.next(field);) {
    if (field.number != 14 || field.start < 0) continue;
    bool found = false;
    std::vector<std::string> values;
    FieldReader entry(model, field.start, field.stop);
    for (Field part; entry.next(part);) {
      if (part.start < 0) continue;
      const std::string_view content =
          model.substr(static_cast<size_t>(part.start), static_cast<size_t>(part.stop - part.start));
      found |= part.number == 1 && content == key;
      if (part.number == 2) values.emplace_back(content);
    }
    if (found && values.empty()) values.emplace_back();
    if (found) texts.insert(texts.end(), values.begin(), values.end());
  }
  return texts;
}

}  // namespace adaptrt::bundle
