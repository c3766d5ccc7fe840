// Runs a file of samples through a bundle, a batch at a time, and writes one output.
//
//   adaptrt_batch BUNDLE SHARE INPUT OUTPUT [BATCH]
//
// INPUT has the samples of the bundle's only input of float32, one after the other, as raw little-endian bytes; OUTPUT
// gets the bundle's first output in the same way. SHARE is of the dense work, such as 0.5.
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include <adaptrt/adaptrt.hpp>

int main(int count, char** words) {
  if (count < 5) {
    std::fprintf(stderr, "got %d words, expected BUNDLE SHARE INPUT OUTPUT [BATCH]\n", count - 1);
    return 2;
  }
  auto model = adaptrt::load(words[1]);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().text.c_str());
    return 1;
  }
  const auto& spec = (*model)->bundle().inputs[0];
  adaptrt::Shape shape;
  for (size_t axis = 0; axis < spec.shape.size(); ++axis) {
    const auto* fixed = std::get_if<int64_t>(&spec.shape[axis]);
    shape.push_back(fixed ? *fixed : 1);
  }
  const auto each = static_cast<size_t>(adaptrt::elements_of(shape, 1));
  std::ifstream input(words[3], std::ios::binary);
  std::ofstream output(words[4], std::ios::binary);
  std::vector<float> samples(each * static_cast<size_t>(count > 5 ? std::max(std::atoi(words[5]), 1) : 32));
  double work = 0;
  int64_t total = 0;
  while (
      input.read(reinterpret_cast<char*>(samples.data()), static_cast<std::streamsize>(samples.size() * sizeof(float))),
      input.gcount() > 0) {
    shape[0] = static_cast<int64_t>(static_cast<size_t>(input.gcount()) / sizeof(float) / each);
    const auto result = (*model)->run({{spec.name, adaptrt::TensorView::of(samples.data(), shape)}},
                                      {adaptrt::Budget::fraction(std::atof(words[2])), {}, {}});
    if (!result) {
      std::fprintf(stderr, "%s\n", result.error().text.c_str());
      return 1;
    }
    if (total == 0 && !result->message.empty()) std::fprintf(stderr, "%s\n", result->message.c_str());
    const adaptrt::Tensor& answer = result->outputs[0].array;
    output.write(static_cast<const char*>(answer.bytes()), static_cast<std::streamsize>(answer.view().bytes()));
    for (int64_t i = 0; i < shape[0]; ++i) work += static_cast<double>(result->macs_fraction.data<float>()[i]);
    total += shape[0];
  }
  std::printf("%lld samples, %.3g of the dense work on average\n", static_cast<long long>(total),
              total ? work / static_cast<double>(total) : 0.0);
  return output.flush() ? 0 : 1;
}
