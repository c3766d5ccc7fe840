// The keys of `bundle.json`, as `runtime/bundle/schema.py` has them; their limits are in `validation.hpp`.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace adaptrt::bundle {

inline constexpr int format_version = 2;
inline constexpr const char* bundle_file = "bundle.json";
inline constexpr const char* macs_output = "macs_fraction";
inline constexpr const char* confidence_output = "confidence";
inline constexpr const char* price_knob = "price";
inline constexpr const char* token_price_knob = "token_price";
inline constexpr const char* thresholds_knob = "exit_thresholds";
inline constexpr const char* snapping_setting = "sample";
inline constexpr const char* stage_metadata = "adaptrt.stage";
inline constexpr const char* criteria[] = {"max_softmax", "entropy", "certainty", "patience", "own"};
inline constexpr double infinity = std::numeric_limits<double>::infinity();

// A number is a fixed size, a text names an axis.
using Size = std::variant<int64_t, std::string>;
using Sizes = std::vector<Size>;

// A number fills the knob's shape, a list has one for each element, row-major.
using KnobValue = std::variant<double, std::vector<double>>;
using KnobValues = std::map<std::string, KnobValue>;

struct Axis {
  int64_t shortest = 1;
  std::optional<int64_t> longest;
};

// Whole numbers from -2^63 to 2^64 - 1.
struct Limit {
  bool negative = false;
  uint64_t size = 0;  // without the sign

  friend bool operator<(const Limit& a, const Limit& b) {
    if (a.negative != b.negative) return a.negative;
    return a.negative ? a.size > b.size : a.size < b.size;
  }
  std::string text() const { return (negative ? "-" : "") + std::to_string(size); }
};

struct ImagePreprocessing {
  int64_t channels = 0, height = 0, width = 0;
  double scale = 1.0 / 255;
  std::vector<double> mean{0.0}, std{1.0};
  std::vector<int64_t> background{0};
  std::string resize = "stretch";
  std::vector<int64_t> size;
  std::string resample = "bilinear", order = "rgb";
};

struct TextPreprocessing {
  std::map<std::string, std::string> inputs;
  int64_t longest = 0, padding_id = 0;
  std::optional<std::string> padding_token;
  int64_t padding_type = 0;
  std::string padding_side = "right", truncation = "longest_first", truncation_side = "right";
  bool special_tokens = true, lower_case = false;
};

struct AudioPreprocessing {
  std::string input, kind;
  int64_t sample_rate = 16'000;
  std::optional<std::string> mask;
  double padding_value = 0.0;
  bool normalize = false;
  int64_t mels = 80, window = 400, hop = 160, samples = 480'000;
};

struct TensorSpec {
  std::string name, dtype;
  Sizes shape;
  std::optional<ImagePreprocessing> preprocessing;
  std::optional<Limit> minimum, maximum;
};

struct DataFile {
  std::string file, sha256;
};

struct PreprocessingFile {
  std::string file, sha256, role;
};

struct Carry {
  std::string name, source, dtype;
  Sizes shape;
};

struct TokenSet {
  std::optional<Size> size;
  std::optional<std::string> valid;
};

struct DecisionSpec {
  std::string kind;
  int64_t number = 0;
  std::map<std::string, std::string> outputs;
  std::string of = "tokens";
  bool flat = true, nested = true;
};

struct Stage {
  std::string file, sha256;
  std::optional<std::string> exit;
  std::vector<DataFile> external_data;
  std::vector<Carry> carry;
  std::vector<DecisionSpec> decisions;
};

struct Knob {
  std::string name, dtype;
  std::vector<int64_t> shape;
  double minimum = 0, maximum = 0, default_value = 0;
};

struct Dense {
  int64_t macs = 0, parameters = 0;
  std::optional<double> quality;
  std::optional<std::string> file, sha256;
  std::vector<DataFile> external_data;
  bool unsplit = false, answers_full = false;

  bool runs_everything() const { return unsplit || answers_full; }
};

struct CurvePoint {
  KnobValues knobs;
  double macs_fraction = 0;
  std::optional<double> quality;
  bool frontier = false;
  std::optional<double> calibration_quality, calibration_macs_fraction;
  std::string setting;
  bool hard = false;
  std::optional<double> calibration_error;
};

struct BudgetPoint {
  double work = 0;
  std::optional<double> quality;
  KnobValues knobs;
};

struct BudgetRow : BudgetPoint {
  double fraction = 0;
  std::optional<BudgetPoint> to;
};

struct BudgetTable {
  std::vector<BudgetRow> soft, hard;
  BudgetPoint full;
};

// What an exported folder holds and what was measured of it.
struct Bundle {
  std::string name, producer;
  std::vector<TensorSpec> inputs, outputs;
  std::vector<Stage> stages;
  std::vector<Knob> knobs;
  Dense dense;
  std::vector<CurvePoint> curve;
  std::optional<std::string> quality_metric;
  std::map<std::string, int64_t> ops;
  std::optional<std::string> exit_criterion;
  std::map<std::string, TokenSet> tokens;
  std::map<std::string, Axis> axes;
  std::optional<std::string> task;
  std::vector<PreprocessingFile> files;
  std::optional<BudgetTable> budget_table;
  std::optional<TextPreprocessing> text;
  std::optional<AudioPreprocessing> audio;
  std::vector<std::string> class_names;
};

}  // namespace adaptrt::bundle
