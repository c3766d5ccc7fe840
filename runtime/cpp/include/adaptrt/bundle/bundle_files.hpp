// The files of a bundle: found inside its folder, read once, hashed, and the same bytes handed on.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "adaptrt/bundle/json_form.hpp"
#include "adaptrt/bundle/onnx_references.hpp"
#include "adaptrt/bundle/sha256.hpp"
#include "adaptrt/bundle/validation.hpp"
#include "adaptrt/expected.hpp"

namespace adaptrt::bundle {

namespace fs = std::filesystem;

inline constexpr uint64_t max_bundle_bytes = 16 * 1024 * 1024;
inline constexpr uint64_t max_model_bytes = 2147483647;  // the most that protobuf parses
inline constexpr uint64_t max_preprocessing_bytes = 256 * 1024 * 1024;

[[noreturn]] inline void fail(const std::string& message) { throw Failure(ErrorKind::bundle, message); }

// The folder with symbolic links resolved.
inline fs::path bundle_root(const std::string& folder) {
  std::error_code error;
  const std::string shown = text::quoted(folder);
  const fs::path root = fs::canonical(folder, error);
  if (error) fail("no folder " + shown + "; expected a bundle, as `adaptrt export` writes it");
  if (!fs::is_directory(root, error)) fail(shown + " is not a folder; give the folder that holds bundle.json");
  if (!fs::exists(root / bundle_file, error))
    fail("no bundle.json in " + shown + "; expected a bundle, as `adaptrt export` writes it");
  return root;
}

inline bool is_inside(const fs::path& root, const fs::path& path) {
  auto part = path.begin();
  for (const fs::path& expected : root) {
    if (part == path.end() || *part != expected) return false;
    ++part;
  }
  return part != path.end();
}

// The regular file that a checked relative path leads to.
inline fs::path locate(const fs::path& root, const std::string& relative) {
  std::error_code error;
  const std::string where = root.string() + ": " + text::quoted(relative);
  const fs::path path = fs::canonical(root / relative, error);
  if (error)
    fail(where +
         " is missing, expected the file that bundle.json names; copy the whole folder or export the model again");
  if (!is_inside(root, path)) {
    fail(where +
         " is a link that leaves the folder, expected a file inside it; copy the bundle with its links resolved (cp "
         "-rL)");
  }
  if (!fs::is_regular_file(path, error))
    fail(where + " is not a regular file; copy the whole folder or export the model again");
  return path;
}

// The content of a file in the bundle, at most `limit` bytes of it.
inline std::string read_file(const fs::path& root, const std::string& relative, uint64_t limit) {
  const fs::path path = locate(root, relative);
  std::error_code error;
  const uint64_t size = fs::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) fail(path.string() + ": cannot be read; check its permissions");
  if (size > limit)
    fail(path.string() + ": " + std::to_string(size) + " bytes, expected at most " + std::to_string(limit) +
         "; export the model again");
  std::string content(size, '\0');
  file.read(content.data(), static_cast<std::streamsize>(size));
  content.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return content;
}

inline std::string hash_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(path.string() + ": cannot be read; check its permissions");
  Sha256 hash;
  std::vector<char> chunk(1024 * 1024);
  while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || file.gcount() > 0) {
    hash.add(chunk.data(), static_cast<size_t>(file.gcount()));
  }
  return hash.digits();
}

inline void compare_hash(const fs::path& root, const std::string& file, const std::string& got,
                         const std::string& expected) {
  if (got == expected) return;
  fail(root.string() + ": " + text::quoted(file) + " was changed or damaged: sha256 is " + got.substr(0, 12) +
       "…, expected " + expected.substr(0, 12) + "…; copy the bundle again or export the model again");
}

// Refuse an ONNX file that keeps weights where nothing was listed, outside the folder for one.
inline void check_locations(const fs::path& root, const Stage& stage, const std::set<std::string>& locations) {
  const std::string where = text::quoted(stage.file) + " keeps weights in ";
  for (const std::string& location : locations) {
    const std::string plain = location.rfind("./", 0) == 0 ? location.substr(2) : location;
    check_relative_path(where + "another file", plain);
    const std::string name = (fs::path(stage.file).parent_path() / plain).lexically_normal().generic_string();
    std::vector<std::string> names;
    bool listed = false;
    for (const DataFile& data : stage.external_data) {
      names.push_back(data.file);
      listed |= data.file == name;
    }
    std::sort(names.begin(), names.end());
    if (!listed) {
      fail(root.string() + ": " + where + text::quoted(name) +
           ", expected one of the external_data files in bundle.json (" + text::joined(names) +
           "); export the model again");
    }
  }
}

// A stage's ONNX file, checked: what is returned is what was hashed and searched. `place` is what it must say its place
// among several stages is, "<i>/<n>"; empty where it is the only one.
inline std::string read_stage(const fs::path& root, const Stage& stage, const std::string& place) {
  std::string model = read_file(root, stage.file, max_model_bytes);
  compare_hash(root, stage.file, sha256_of(model), stage.sha256);
  const std::string where = root.string() + ": " + text::quoted(stage.file);
  std::set<std::string> locations;
  std::vector<std::string> places;
  try {
    locations = external_locations(model);
    places = metadata_props(model, stage_metadata);
  } catch (const NotOnnx& error) {
    fail(where + " is not an ONNX file (" + text::one_line(error.what()) + "); export the model again");
  }
  if (!place.empty() && places != std::vector<std::string>{place}) {
    std::string said;
    for (const std::string& one : places) said += (said.empty() ? "" : " and ") + text::quoted(one);
    fail(where + " says that it is stage " + (said.empty() ? "of no number" : said) + " of its network (" +
         stage_metadata + "), expected " + text::quoted(place) +
         "; the stages were mixed up: copy the bundle again or export the model again");
  }
  try {
    check_locations(root, stage, locations);
  } catch (const Invalid& error) {
    fail(root.string() + ": " + error.what());
  }
  for (const DataFile& data : stage.external_data)
    compare_hash(root, data.file, hash_file(locate(root, data.file)), data.sha256);
  return model;
}

// Read and check `bundle.json`, and that the files it names are there and inside. Hashes of graphs are taken where
// the bytes are used, by `read_stage`.
inline Bundle read_bundle(const fs::path& root, std::string* hash = nullptr) {
  const std::string content = read_file(root, bundle_file, max_bundle_bytes);
  if (hash) *hash = sha256_of(content);
  Bundle bundle;
  try {
    bundle = decode_bundle(content);
    check_bundle(bundle);
  } catch (const Invalid& error) {
    fail((root / bundle_file).string() + ": " + error.what());
  }
  for (const Stage& stage : bundle.stages) {
    locate(root, stage.file);
    for (const DataFile& data : stage.external_data) locate(root, data.file);
  }
  for (const PreprocessingFile& entry : bundle.files) {
    compare_hash(root, entry.file, sha256_of(read_file(root, entry.file, max_preprocessing_bytes)), entry.sha256);
  }
  return bundle;
}

}  // namespace adaptrt::bundle
