# One name for every action; CI, hooks and people call these. `make demo` and `make test` need nothing but Python.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
RAY := .venv/.ray-installed

.PHONY: setup demo test test-ray lint check stress proto bench serving ray speed speed-gpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Penstock needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments. On Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[serve,tracing,export,train,attacks,openvino,bench,dev]'
	touch $@

demo: setup
	$(BIN)/penstock demo

# First, one by one, the tests that need the machine for themselves; then two workers, each with whole files of tests.
test: setup
	$(BIN)/python -m pytest -m alone
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not alone'

# Ray is large, and its tests start clusters: apart from the others, which skip these where it is missing.
$(RAY): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[serve,ray]'
	touch $@

test-ray: $(RAY)
	$(BIN)/python -m pytest tests/service/test_ray.py tests/service/test_scoring.py \
	  tests/benchmarks/test_serving.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	$(BIN)/mypy
	$(BIN)/lint-imports

stress: $(RAY)
	$(BIN)/python benchmarks/stress.py
	$(BIN)/python benchmarks/tables.py

proto: setup
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=src --pyi_out=src --grpc_python_out=src \
	  proto/penstock/service/v1/paths.proto

speed: setup
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/tables.py

speed-gpu: setup
	$(BIN)/python benchmarks/speed_gpu.py
	$(BIN)/python benchmarks/tables.py

serving: setup
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/tables.py

ray: $(RAY)
	$(BIN)/python benchmarks/ray_scaling.py
	$(BIN)/python benchmarks/tables.py

bench: setup
	$(BIN)/python benchmarks/main_job.py
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf build dist *.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
