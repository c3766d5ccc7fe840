// Frames come at a rate, each is answered within a latency budget while the device changes.
//
//   adaptrt_camera_loop BUNDLE MILLISECONDS [FRAMES_PER_SECOND] [SECONDS]
//
// The frames are noise: put a camera's in their place. The bundle has one input of fractions whose first axis is the
// batch.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include <adaptrt/adaptrt.hpp>

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "got %d words, expected BUNDLE MILLISECONDS [FRAMES_PER_SECOND] [SECONDS]\n", count - 1);
    return 2;
  }
  const double rate = count > 3 ? std::atof(words[3]) : 30, seconds = count > 4 ? std::atof(words[4]) : 3;
  auto model = adaptrt::load(words[1]);
  if (!model) {
    std::fprintf(stderr, "%s\n", model.error().text.c_str());
    return 1;
  }
  const auto& bundle = (*model)->bundle();
  adaptrt::Shape shape;
  for (const auto& size : bundle.inputs[0].shape) {
    const auto* fixed = std::get_if<int64_t>(&size);
    shape.push_back(fixed ? *fixed : 1);
  }
  if (bundle.inputs.size() != 1 || bundle.inputs[0].dtype != "float32") {
    std::fprintf(stderr,
                 "got a bundle with other inputs, expected one of float32; fill yours in as this loop fills its own\n");
    return 1;
  }
  std::vector<float> frame(static_cast<size_t>(adaptrt::elements_of(shape)));
  std::mt19937 noise(0);
  std::uniform_real_distribution<float> pixel(0, 1);
  const auto set = (*model)->set_budget(adaptrt::Budget::latency(std::atof(words[2])));
  if (!set) {
    std::fprintf(stderr, "%s\n", set.error().text.c_str());
    return 1;
  }
  const std::vector<adaptrt::NamedView> inputs = {
      {bundle.inputs[0].name, adaptrt::TensorView::of(frame.data(), shape)}};
  int frames = 0, met = 0;
  double work = 0;
  const auto period = std::chrono::duration<double>(1 / rate);
  auto next = std::chrono::steady_clock::now();
  const auto end = next + std::chrono::duration<double>(seconds);
  while (next < end) {
    std::this_thread::sleep_until(next);
    for (float& one : frame) one = pixel(noise);
    const auto result =
        (*model)->run(inputs);  // the first call profiles the device where no profile is kept: three seconds
    if (!result) {
      std::fprintf(stderr, "%s\n", result.error().text.c_str());
      return 1;
    }
    if (frames == 0 && !result->message.empty()) std::fprintf(stderr, "%s\n", result->message.c_str());
    ++frames;
    met += result->target_met().value_or(false);
    work += static_cast<double>(result->macs_fraction.data<float>()[0]);
    const auto now = std::chrono::steady_clock::now();
    do next += std::chrono::duration_cast<std::chrono::steady_clock::duration>(period);
    while (next < now && next < end);  // a frame that was missed is dropped
  }
  std::printf("%d frames, %d within the budget, %.3g of the dense work on average\n", frames, met, work / frames);
  return 0;
}
