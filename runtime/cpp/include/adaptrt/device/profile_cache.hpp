// Profiles on disk, one file for each thing they hold for, in the form and the folder of the Python runtime's.
//
// Another engine's profiles are never used: the key says that C++ measured. What cannot be read is measured again.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "adaptrt/bundle/json_reader.hpp"
#include "adaptrt/bundle/sha256.hpp"
#include "adaptrt/device/processors.hpp"
#include "adaptrt/device/profile.hpp"

namespace adaptrt {

// The processor or board.
inline std::string describe_device() {
#if defined(__x86_64__)
  std::string name = "x86_64";
#elif defined(__aarch64__)
  std::string name = "aarch64";
#else
  std::string name = "another machine";
#endif
  const std::string board = processors::text_of("/proc/device-tree/model");
  std::string processor;
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; board.empty() && processor.empty() && std::getline(cpuinfo, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(':') != std::string::npos)
      processor = line.substr(line.find(':') + 2);
  }
  const std::string shown = board.empty() ? processor : board.substr(0, board.find('\0'));
  return name + (shown.empty() ? "" : " " + shown) + ", Linux";
}

namespace profile_cache {

inline constexpr int format_version = 2;

inline std::string to_json(const Profile& profile) {
  using text::number;
  std::string points, cold;
  for (const ProfilePoint& point : profile.points) {
    points += (points.empty() ? "" : ",") + ("{\"fraction\":" + number(point.fraction)) +
              ",\"done\":" + number(point.done) + ",\"quality\":" + (point.quality ? number(*point.quality) : "null") +
              ",\"median_ms\":" + number(point.median_ms) + ",\"p95_ms\":" + number(point.p95_ms) +
              ",\"runs\":" + std::to_string(point.runs) + ",\"median_mj\":null}";
  }
  for (const double factor : profile.cold) cold += (cold.empty() ? "" : ",") + number(factor);
  return "{\"key\":" + profile.key.json() + ",\"points\":[" + points + "],\"noise\":" + number(profile.noise) +
         ",\"cold\":[" + cold + "],\"seconds\":" + number(profile.seconds) +
         ",\"format_version\":" + std::to_string(format_version) + "}";
}

// Nothing where a number cannot have been measured, or the profile is of something else.
inline std::optional<Profile> from_json(const std::string& content, const DeviceKey& key) {
  using bundle::JsonNode;
  const auto within = [](double value, double least, double most) { return least <= value && value <= most; };
  try {
    const bundle::Json parsed = bundle::Json::parse(content);
    const JsonNode root(parsed), of = root.at("key");
    const DeviceKey found{of.at("bundle").text(),          of.at("backend").text(),
                          of.at("device").text(),          static_cast<int>(of.at("threads").whole()),
                          of.at("batch").whole(),          static_cast<int>(of.at("processors").whole()),
                          of.at("quota").optional_number()};
    if (root.at("format_version").whole() != format_version || found.json() != key.json()) return std::nullopt;
    Profile profile{key, {}, root.at("noise").number(), {}, root.at("seconds").number()};
    profile.cold = root.at("cold").list<double>([](const JsonNode& node) { return node.number(); });
    bool fine = within(profile.noise, 0.01, 0.3) && profile.cold.size() == profiling::cold_calls;
    for (const double factor : profile.cold) fine &= within(factor, 1, 1e9);
    profile.points = root.at("points").list<ProfilePoint>([&](const JsonNode& node) {
      ProfilePoint point{node.at("fraction").number(),         node.at("done").number(),
                         node.at("quality").optional_number(), node.at("median_ms").number(),
                         node.at("p95_ms").number(),           node.at("runs").whole()};
      fine &= within(point.fraction, 1e-300, 100) && within(point.done, 1e-300, 100) && point.runs >= 1;
      fine &= within(point.median_ms, 1e-6, 1e9) && within(point.p95_ms, 1e-6, 1e9);
      return point;
    });
    if (!fine || profile.points.empty() || profile.points.size() > 1000) return std::nullopt;
    profile.curve();
    return profile;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

}  // namespace profile_cache

// A folder of profiles; any number of processes may use it at once.
class ProfileCache {
 public:
  // `$ADAPTRT_CACHE`, or the platform's folder for caches. Where there is none nothing is found and nothing kept.
  ProfileCache() {
    const auto absolute = [](const char* path) { return path && *path == '/'; };
    const char *named = std::getenv("ADAPTRT_CACHE"), *caches = std::getenv("XDG_CACHE_HOME"),
               *home = std::getenv("HOME");
    std::error_code error;
    if (named && *named && *named != '~')
      folder_ = (std::filesystem::absolute(named, error) / "profiles").string();
    else if (named && *named == '~')
      folder_ = absolute(home) ? home + std::string(named + 1) + "/profiles" : "";
    else if (absolute(caches))
      folder_ = caches + std::string("/adaptrt/profiles");
    else if (absolute(home))
      folder_ = home + std::string("/.cache/adaptrt/profiles");
  }

  // The file of a profile; empty where there is no folder.
  std::string path(const DeviceKey& key) const {
    return folder_.empty() ? "" : folder_ + "/" + bundle::sha256_of(key.json()).substr(0, 32) + ".json";
  }

  std::optional<Profile> load(const DeviceKey& key) const {
    constexpr std::streamsize largest = 1'000'000;
    std::error_code error;
    const std::string place = path(key);
    // A pipe would be waited for.
    if (place.empty() || !std::filesystem::is_regular_file(place, error) ||
        std::filesystem::file_size(place, error) > std::uintmax_t{largest})
      return std::nullopt;
    std::ifstream file(place, std::ios::binary);
    std::string content(largest, '\0');
    file.read(content.data(), largest);
    content.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
    return profile_cache::from_json(content, key);
  }

  // Keep a profile, whole or not at all; whether it was kept.
  bool store(const Profile& profile) const {
    const std::string place = path(profile.key);
    std::error_code error;
    if (place.empty()) return false;
    std::filesystem::create_directories(folder_, error);
    static std::atomic<unsigned> number{0};
    const std::string partial = place + "." + std::to_string(getpid()) + "-" + std::to_string(number++) + ".partial";
    {
      std::ofstream file(partial, std::ios::binary);
      file << profile_cache::to_json(profile);
      if (!file.flush()) return false;
    }
    std::filesystem::rename(partial, place, error);
    if (error) std::filesystem::remove(partial, error);
    return !error;
  }

 private:
  std::string folder_;
};

}  // namespace adaptrt
