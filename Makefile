# make demo    train, sample and evaluate on handwritten digits   make test        most fast tests
# make setup   the environment alone                              make test-extended  the other fast ones
#              (ACCELERATOR=cuda12, cuda13, tpu)                  make test-all    with the slow ones
#                                                                 make test-quick  the mathematics alone
#                                                                 make test-newest  for a newer Python
# make demo-text   a text-to-image model, trained from nothing: three quarters of an hour
# make demo-video  a model of clips of moving drawings, trained from nothing, and measured by a judge
# make bench   timings                                            make lint      ruff   make types   pyright
# make gallery   docs/gallery, of the recipe digits, which it trains
# make mutate  which small mistakes in the mathematics no test would see
# make site    these pages and every public name, into site/index.html
# make accelerators-env   the environment of benchmarks.programs: XLA's compilers for GPUs and TPUs, which need neither
# make playground-env   the environment of diffusion playground, a page to try a model on
# make test-stores    runs in object stores against servers of S3 and Google Cloud Storage on this machine
# make test-cluster   the SLURM launchers on a real slurmctld and two slurmd, which it starts here and ends
# make fixtures   other libraries' values, from an environment of their own   make test-peers   compared live
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := runs/demo
DIGITS := runs/digits
TEXT := runs/text
VIDEO := runs/video
PEERS := .venv-peers
PLAYGROUND := .venv-playground
COMPILERS := .venv-accelerators
STORES := .venv-stores
# jax for an accelerator: make setup ACCELERATOR=cuda12; docs/install.md
ACCELERATORS := cuda12 cuda13 tpu
ACCELERATOR :=
LOCK := requirements$(addprefix -,$(ACCELERATOR)).txt
COMPLETE := $(VENV)/.complete$(addprefix -,$(ACCELERATOR))
ifneq ($(filter-out $(ACCELERATORS),$(ACCELERATOR)),)
$(error ACCELERATOR=$(ACCELERATOR) is not known. Valid: $(ACCELERATORS), or none for the CPU)
endif

.PHONY: setup demo gallery demo-text demo-video test test-extended test-all test-quick test-newest test-cluster test-stores test-peers fixtures bench accelerators-env playground-env lint types mutate
.PHONY: site lock clean
setup: $(COMPLETE)

$(COMPLETE): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(VENV)/.complete $@

# Commands of minutes take huge pages and all memory arenas: two arenas, which keep the memory of a run of hours from
# growing (diffusion/training/runtime/huge_pages.py), cost a fifth of the speed here.
demo gallery demo-video: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: setup
	$(RUN) -m diffusion train --config=digits:demo --workdir=$(DEMO)
	$(RUN) -m diffusion sample --workdir=$(DEMO)
	$(RUN) -m diffusion evaluate --workdir=$(DEMO)

# The autoencoder has two simulated devices with a core each, since XLA's convolutions hardly use a second core. The text
# encoder has one: its loss gathers twice, for which XLA's CPU backend was seen to wait for ever with two threads.
demo-text: setup
	$(RUN) -m examples.text.demo --config=text/shapes --workdir=$(TEXT) --until=encoder
	XLA_FLAGS="$$XLA_FLAGS --xla_force_host_platform_device_count=2" \
	  $(RUN) -m examples.text.demo --config=text/shapes --workdir=$(TEXT) --until=autoencoder
	$(RUN) -m examples.text.demo --config=text/shapes --workdir=$(TEXT)
	$(RUN) -m diffusion sample --workdir=$(TEXT) --prompt="a red circle above a blue square" -n 4 --out=$(TEXT)
	$(RUN) -m examples.text.report --model=$(TEXT)/model --out=$(TEXT)/report

demo-video: setup
	$(RUN) -m examples.video.demo --config=video/drawings --workdir=$(VIDEO) --number=96
	$(RUN) -m examples.video.demo --config=video/drawings --workdir=$(VIDEO) --prompt="a red star turns clockwise slowly"

gallery: setup
	$(RUN) -m diffusion train --config=digits --workdir=$(DIGITS)
	$(RUN) -m diffusion sample --workdir=$(DIGITS)
	$(RUN) -m diffusion evaluate --workdir=$(DIGITS)
	$(RUN) -m tools.docs.gallery --workdir=$(DIGITS)

# The first run compiles; .cache keeps the programs for the next run of every target that has fast tests alone.
# pytest keeps the tests as it rewrites them, and Python what it compiles, where the environment forbids it (containers do).
test test-extended test-quick test-newest test-all: export PYTHONDONTWRITEBYTECODE :=
# Three workers for two cores: some tests wait for processes that they start.
test: setup
	$(RUN) -m pytest -n 3 --dist worksteal -m "not slow and not extended"

# The fast tests that compile most. CI runs them after the others, and `pytest FOLDER` runs both.
test-extended: setup
	$(RUN) -m pytest -n 3 --dist worksteal -m "not slow and extended"

# The mathematics by its formulas: without tests that run every sampler or guidance of the conformance lists, that train,
# or that have two players.
MATHEMATICS := tests/schedules tests/timesteps tests/samplers tests/guidance tests/objectives tests/flows tests/sampling/test_editing.py \
  $(addprefix tests/test_, parameterizations.py conversions.py)
LONG := few_step_* samplers sampler_orders sampler_gradients sampler_moments guidance_conformance short_trainings
test-quick: setup
	$(RUN) -m pytest -n 2 --dist worksteal -q $(MATHEMATICS) $(patsubst %,--ignore-glob='*/test_%.py',$(LONG))

# What is tried on the newest Python as well: the mathematics, the commands of the demo in seconds, the help of each.
test-newest: test-quick
	rm -rf runs/newest
	$(RUN) -m diffusion train --config=digits:tiny --workdir=runs/newest
	$(RUN) -m diffusion sample --workdir=runs/newest
	$(RUN) -m diffusion evaluate --workdir=runs/newest
	$(RUN) -m pytest -n 2 -q -m "" tests/experiments/test_commands.py -k help

# The remakes of up to ten minutes, and all inputs of the fuzzing, take nearly three hours of its processor time.
test-all: export REMAKE_MINUTES ?= 10
test-all: export FUZZED_INPUTS ?= 5000
test-all: setup
	$(RUN) -m pytest -n 2 --dist loadfile -m ""

# Without SLURM it names the missing programs. Its daemons have their own ports and folders, on loopback.
test-cluster: setup
	@$(RUN) -c 'import sys; from tests.cluster import daemons; sys.exit(daemons.missing() or 0)'
	$(RUN) -m pytest -m cluster tests/cluster

# s3fs, gcsfs and the servers lie in an environment of their own, which sees what the other one has.
$(STORES)/.complete: tests/store_servers/requirements.txt | setup
	$(PYTHON) -m venv $(STORES)
	$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(STORES)/base.pth
	mv $(STORES)/base.pth $$($(STORES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	$(STORES)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/store_servers/requirements.txt
	@touch $@

test-stores: $(STORES)/.complete
	$(STORES)/bin/python -m pytest -n 0 -m "" tests/store_servers

# The values of other libraries that the tests compare with. tests/fixtures holds them, so that only a change needs
# `make fixtures`; `make test-peers` makes them again beside, and compares them with the recorded ones and with us.
$(PEERS)/.complete: tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	@touch $@

# Tests that compare whole pipelines, adapters and controls among them.
BESIDE_PIPELINES := $(addprefix tests/text_to_image/test_, generate.py attached.py perturbed.py clips.py) \
  tests/published/ltx2 tests/published/stable_cascade tests/adapters/test_ip_adapter.py \
  tests/experiments/sampling/test_class_models.py

define record_peers
	mkdir -p $(1)/models $(1)/text $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.diffusers_reference $(1)/diffusers.safetensors
	$(PEERS)/bin/python -m tests.peers.cases $(1)/models
	$(PEERS)/bin/python -m tests.peers.i3d_reference $(1)/i3d.safetensors
	$(PEERS)/bin/python -m tests.peers.tokenizers_reference $(1)/text
	$(PEERS)/bin/python -m tests.peers.text_conditions_reference $(1)/text
	$(PEERS)/bin/python -m tests.peers.loras $(1)/text_to_image/lora.safetensors
	$(PEERS)/bin/python -m tests.peers.loras spellings $(1)/text_to_image/lora_spellings.safetensors
	$(PEERS)/bin/python -m tests.peers.pipelines $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.class_pipelines $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.controlled $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.controlled_transformers $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.controlled_union $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.perturbed $(1)/text_to_image
	$(PEERS)/bin/python -m tests.peers.ip_adapters $(1)/text_to_image/ip_adapter.safetensors
	$(PEERS)/bin/python -m tests.peers.joint_ip_adapters $(1)/text_to_image/ip_adapter_mmdit.safetensors
	$(PEERS)/bin/python -m tests.peers.redux $(1)/text_to_image
endef

fixtures: $(PEERS)/.complete
	$(call record_peers,tests/fixtures)

test-peers: setup $(PEERS)/.complete
	$(call record_peers,runs/peers)
	PEERS_FIXTURES=runs/peers $(RUN) -m pytest tests/peers
	PEERS_FIXTURES=runs/peers $(RUN) -m pytest -m "" tests/metrics/test_i3d.py $(BESIDE_PIPELINES)

# What runs here; benchmarks.programs, in the environment of accelerators-env, compiles for what is not here.
bench: setup
	$(RUN) -m benchmarks.suite

# The CUDA plugin of JAX and libtpu, as in requirements-cuda12.txt and requirements-tpu.txt.
accelerators-env: $(COMPILERS)/.complete
$(COMPILERS)/.complete: requirements-cuda12.txt requirements-tpu.txt
	$(PYTHON) -m venv $(COMPILERS)
	for lock in $^; do $(COMPILERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $$lock; done
	@touch $@

# gradio needs an older Pillow than the rest, so the page has its own environment.
playground-env: $(PLAYGROUND)/.complete
$(PLAYGROUND)/.complete: requirements-playground.txt
	@echo "The environment of the page, $(PLAYGROUND): $$(grep -c == $<) packages"
	$(PYTHON) -m venv $(PLAYGROUND)
	$(PLAYGROUND)/bin/python -m pip install --disable-pip-version-check --require-hashes -r $<
	@touch $@

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: setup
	$(RUN) -m pyright --pythonpath $(RUN)

mutate: setup
	$(RUN) -m tools.mutate

site: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet
	@echo "open site/index.html"

# Writes the locked versions of every supported Python, with their hashes and no index.
lock:
	uv pip compile --quiet --universal --generate-hashes --extra dev --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-header pyproject.toml -o requirements.txt
	for accelerator in $(ACCELERATORS); do \
	  uv pip compile --quiet --universal --generate-hashes --extra dev --extra $$accelerator --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --no-annotate --no-header --constraints requirements.txt \
	    pyproject.toml -o requirements-$$accelerator.txt; \
	done
	uv pip compile --quiet --universal --generate-hashes --extra playground --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-header pyproject.toml -o requirements-playground.txt

clean:
	rm -rf $(VENV) $(PEERS) $(PLAYGROUND) $(COMPILERS) $(STORES) runs site
