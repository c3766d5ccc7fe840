// adaptrt for C++17: load a bundle and obey a budget, over ONNX Runtime's C API. See docs/embed.md.
#pragma once

#include "adaptrt/model.hpp"
