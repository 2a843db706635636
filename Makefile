# Every target sets up .venv by itself. `make run` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: small networks and two shared cores are slower with more.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
# Tests run side by side in as many processes.
WORKERS ?= 2

.PHONY: run test test-all check format docs films bench learn references evidence gpu gpu-rehearsal clean
.DEFAULT_GOAL := run

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: $(VENV)/.ready  ## train RL2 on GridSwitch, measure it beside the yardsticks, write runs/quickstart
	$(BIN)/metabench quickstart

test: $(VENV)/.ready  ## the tests, under 12 minutes on two cores
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-all: $(VENV)/.ready  ## the slow ones too
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not benchmark"

check: $(VENV)/.ready  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_public_api.py

format: $(VENV)/.ready  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready  ## the site in docs/_build/html: pages (warnings are errors), boards, policies, a dataset
	$(BIN)/python docs/tutorials/build.py
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/metabench board build --out docs/_build/html/boards --docs ../ $(BOARDS)
	for split in train test; do \
	  METABENCH_DATA=docs/_build/data $(BIN)/metabench dataset download point-robot/mixed-v0 --split $$split || exit 1; done
	METABENCH_DATA=docs/_build/data $(BIN)/metabench dataset publish docs/_build/html/data

films: $(VENV)/.ready  ## the documentation's films that are missing; wants OpenGL
	$(if $(shell ldconfig -p | grep libEGL.so),MUJOCO_GL=egl )$(BIN)/python docs/films.py

bench: $(VENV)/.ready  ## speed ratios against references timed in the same run; wants a quiet machine
	$(BIN)/python -m pytest -q -m benchmark tests/benchmarks

learn: $(VENV)/.ready  ## whether agents still learn: short runs whose returns must end in stored intervals; under 20 minutes on two cores
	$(BIN)/python -m studies.learn --workers $(WORKERS)

references: $(VENV)/.ready  ## measure random and oracle again and rewrite references*.json
	$(BIN)/python scripts/measure_references.py
	$(BIN)/python scripts/measure_metaworld.py

evidence: $(VENV)/.ready  ## the runs behind the docs' tables, for as long as it is left alone; says what is missing
	$(BIN)/python -m studies.evidence

# Needs nothing but a torch with CUDA beside the package's own dependencies: GPU_PYTHON is the interpreter that has them.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

gpu:  ## check, time and train on a GPU, in less than nine minutes; writes docs/results/gpu and the speed page's section
	PYTHONPATH=.:agents $(GPU_PYTHON) -m studies.gpu.study

gpu-rehearsal: $(VENV)/.ready  ## the same, small, on the CPU: whether everything is ready
	PYTHONPATH=.:agents $(BIN)/python -m studies.gpu.study --rehearsal

clean:
	rm -rf $(VENV) docs/_build build *.egg-info .pytest_cache .ruff_cache
