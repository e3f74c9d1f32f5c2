# Each target sets itself up: from a bare clone, python3 (3.11 or later) and make are enough.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
PYTEST_ARGS ?=
UV_VERSION := 0.13.9

BIN := .venv/bin
UV_READY := .venv/.uv-$(UV_VERSION)
COMPILE_ENGINE := $(BIN)/python -m hal.snn.fast
DEMO_READY := .venv/.demo-ready
TEST_READY := .venv/.test-ready

export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV

.PHONY: help demo test check bench soak packages docs links e2e-packages runtimes install uninstall versions arm64 deb e2e

help:
	@echo "make demo    classify 360 images under three power budgets and print the joules"
	@echo "make test    run the tests and measure their coverage"
	@echo "make check   check format, lint, types, import contracts and the lock file"
	@echo "make bench   measure the daemon's overhead, its speed beside other servers, and a worker's overhead"
	@echo "make soak    the long runs: windows of a million simulated requests, the core from many seeds, kills under load, the ledger"
	@echo "make versions  install the wheel and run the tests on each Python of PYTHONS"
	@echo "make arm64   ask the package index for a wheel of each locked package for arm64"
	@echo "make deb     build a Debian package, which installs without a network"
	@echo "make install, make uninstall  put the daemon on this host, into /opt/jouled, or take it off (root)"
	@echo "make e2e     try the package under real systemd in a container (root)"
	@echo "make e2e-packages  install from Debian what boots the container (root)"
	@echo "make docs    build the documentation into build/docs"
	@echo "make links   ask for the pages elsewhere that the documents link to"
	@echo "make packages  install Prometheus and Chromium from Debian, which some tests need (root)"
	@echo "make runtimes  install the libraries of Loihi's and the NCS2's vendor (Python 3.10 and 3.9)"

demo: $(DEMO_READY)
	$(BIN)/jouled demo

test: $(TEST_READY)
	$(BIN)/pytest $(PYTEST_ARGS) --cov

check: $(TEST_READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter
	$(BIN)/uv lock --check --offline

bench: $(TEST_READY)
	$(BIN)/python -m tests.bench.overhead
	$(BIN)/python -m tests.bench.serve
	$(BIN)/python -m tests.bench.worker
	$(BIN)/python -m tests.bench.watched
	$(BIN)/python -m tests.bench.history
	$(BIN)/python -m tests.bench.batching
	$(BIN)/python -m tests.bench.overload

# The tests run short versions of these.
soak: $(TEST_READY)
	$(BIN)/python -m tests.bench.router --traces all
	JOULED_SOAK_SECONDS=60 $(BIN)/python -m tests.bench.faults --e2e
	$(BIN)/python -m tests.soak.core --first 1000 --seeds 5000
	JOULED_SOAK_SECONDS=1800 $(BIN)/pytest -q tests/daemon/test_serving_memory.py
	JOULED_SOAK_SECONDS=600 $(BIN)/pytest -q tests/daemon/test_serving_ledger.py
	JOULED_SOAK_SECONDS=60 $(BIN)/pytest -q tests/models/test_zoo.py

docs: $(TEST_READY)
	$(BIN)/uv sync --frozen --inexact --extra docs
	$(BIN)/mkdocs build --strict --quiet --config-file .ci/mkdocs.yml

# Links within the repository are among the tests; these need a network.
links: $(TEST_READY)
	$(BIN)/python -m tests.repository.external_links

# What the tests of metrics, page and clients drive; they skip without it.
packages:
	which prometheus promtool chromium >/dev/null || { \
	  apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends prometheus chromium fonts-dejavu-core; }
	command -v node >/dev/null && command -v npm >/dev/null || { \
	  apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends nodejs npm; }

# What boots the container; Debian's own Python is the one that the package is for.
e2e-packages:
	which debootstrap systemd-nspawn dpkg-deb /usr/bin/python3 >/dev/null || { \
	  apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
	    debootstrap systemd-container debian-archive-keyring python3; }

runtimes: $(TEST_READY)
	$(BIN)/jouled runtime install loihi ncs2

# The wheel and the suite on every Python that is supported.
versions: $(UV_READY)
	rm -rf .cache/wheel
	$(BIN)/uv build --quiet --wheel --out-dir .cache/wheel
	for python in $(PYTHONS); do \
	  environment=$(CURDIR)/.cache/versions/$$(basename $$python); \
	  UV_PROJECT_ENVIRONMENT=$$environment $(BIN)/uv sync --quiet --frozen --python $$python \
	    --no-install-project --extra test --extra demo --extra compile && \
	  VIRTUAL_ENV=$$environment $(BIN)/uv pip install --quiet --no-deps --reinstall .cache/wheel/*.whl && \
	  (cd / && $$environment/bin/python -m hal.snn.fast && $$environment/bin/jouled demo) && \
	  $$environment/bin/pytest $(PYTEST_ARGS) || exit 1; \
	done

# Debian 12 on arm64 has glibc 2.36: every locked package has a wheel that runs there, or pip names the one that has none.
arm64: $(UV_READY)
	mkdir -p .cache
	$(BIN)/uv export --quiet --frozen --no-dev --no-emit-project --no-hashes --output-file .cache/core.txt
	for version in 3.11 3.12 3.13; do \
	  $(BIN)/python -m pip install --quiet --dry-run --ignore-installed --no-deps --only-binary=:all: --target .cache/arm64 \
	    --python-version $$version --platform manylinux2014_aarch64 \
	    $(foreach minor,17 24 26 27 28 31 34 35 36,--platform manylinux_2_$(minor)_aarch64) -r .cache/core.txt || exit 1; \
	done

deb: $(UV_READY)
	systemd/deb/build.sh

install: $(UV_READY)
	systemd/install.sh

uninstall:
	systemd/uninstall.sh

e2e: $(TEST_READY)
	$(BIN)/pytest tests/e2e --e2e -s $(PYTEST_ARGS)

$(UV_READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "jouled needs Python 3.11 or later and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name another one: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# The demonstration needs less than the tests; whichever comes first, the other one adds to it or finds all it needs.
$(DEMO_READY): pyproject.toml uv.lock $(UV_READY)
	$(BIN)/uv sync --frozen --inexact --extra demo
	$(COMPILE_ENGINE)
	@touch $@

$(TEST_READY): pyproject.toml uv.lock $(UV_READY)
	$(BIN)/uv sync --frozen --extra test --extra demo --extra compile
	$(COMPILE_ENGINE)
	@touch $@ $(DEMO_READY)
