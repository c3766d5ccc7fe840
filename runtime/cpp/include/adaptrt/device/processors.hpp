// How many processors this process may really use: affinity, physical cores, and the quota of its control group; see
// `runtime/device/processors.py`.
#pragma once

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace adaptrt {

// What the system grants.
struct Processors {
  int usable = 1;               // logical processors that the process may run on
  int cores = 1;                // physical cores among them
  std::optional<double> quota;  // processors' worth of time by the control groups; nothing without a limit

  // How many threads are worth having: one per core, no more than the quota feeds, at least one.
  int threads() const { return std::max(quota ? std::min(cores, static_cast<int>(*quota)) : cores, 1); }
};

namespace processors {

inline std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::stringstream content;
  if (file) content << file.rdbuf();
  std::string text = content.str();
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

inline std::optional<double> quota_of(const std::string& folder, bool unified) {
  std::istringstream limit(unified
                               ? text_of(folder + "/cpu.max")
                               : text_of(folder + "/cpu.cfs_quota_us") + " " + text_of(folder + "/cpu.cfs_period_us"));
  double granted = 0, every = 0;
  if (!(limit >> granted >> every) || granted <= 0 || every <= 0) return std::nullopt;  // "max", or no such file
  return granted / every;
}

// The quotas of a control group and of those above it, up to where the hierarchy is mounted. In a container the path
// may be the host's while only the container's part is mounted: then what is mounted is the group.
inline void add_quotas(const std::string& mount, const std::string& mounted, const std::string& group, bool unified,
                       std::vector<double>& quotas) {
  const std::string top = mounted == "/" ? "" : mounted;
  const bool inside = group.find("..") == std::string::npos && group.rfind(top, 0) == 0 &&
                      (group.size() == top.size() || group[top.size()] == '/');
  std::string below = inside ? group.substr(top.size()) : "";
  while (!below.empty() && below.back() == '/') below.pop_back();
  for (;;) {
    if (const auto quota = quota_of(mount + below, unified)) quotas.push_back(*quota);
    if (below.empty()) return;
    below.resize(below.rfind('/') == std::string::npos ? 0 : below.rfind('/'));
  }
}

inline bool has_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

inline std::optional<double> quota() {
  std::vector<double> quotas;
  std::istringstream groups(text_of("/proc/self/cgroup"));
  const std::string mounts = text_of("/proc/self/mountinfo");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    const bool unified = line.substr(0, first) == "0" && controllers.empty();
    if (!unified && !has_word(controllers, "cpu")) continue;
    std::istringstream lines(mounts);
    for (std::string mount; std::getline(lines, mount);) {
      std::istringstream words(mount);
      std::vector<std::string> fields;
      for (std::string word; words >> word;) fields.push_back(word);
      const auto dash =
          std::find(fields.begin() + std::min<ptrdiff_t>(6, static_cast<ptrdiff_t>(fields.size())), fields.end(), "-");
      if (fields.end() - dash < 4) continue;
      const bool fits = unified ? dash[1] == "cgroup2" : dash[1] == "cgroup" && has_word(dash[3], "cpu");
      if (fits) add_quotas(fields[4], fields[3], group, unified, quotas);
    }
  }
  if (quotas.empty()) return std::nullopt;
  return std::max(*std::min_element(quotas.begin(), quotas.end()), 0.001);
}

}  // namespace processors

// What is granted now; quotas may change while the process runs.
inline Processors granted_processors() {
  Processors granted;
  cpu_set_t set;
  CPU_ZERO(&set);
  std::set<std::string> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    granted.usable = std::max(CPU_COUNT(&set), 1);
    for (int number = 0; number < CPU_SETSIZE; ++number) {
      if (!CPU_ISSET(number, &set)) continue;
      const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(number) + "/topology/";
      std::string core = processors::text_of(topology + "core_cpus_list");
      if (core.empty()) core = processors::text_of(topology + "thread_siblings_list");
      cores.insert(core.empty() ? std::to_string(number) : core);
    }
  }
  granted.cores = std::max(static_cast<int>(cores.size()), 1);
  granted.quota = processors::quota();
  return granted;
}

}  // namespace adaptrt
