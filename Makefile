# Two commands are all a newcomer needs: `make bench` and `make test`.  Both set everything up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: bench test lint gpu-check clean

bench: $(READY)
	$(BIN)/augbench run --suite quick --results local

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On a machine with a CUDA device, with that machine's own Python and nothing installed:
#     make gpu-check GPU_PYTHON=python3
GPU_PYTHON ?= python3
gpu-check:
	$(GPU_PYTHON) -c "import torch; assert torch.cuda.is_available(), 'no CUDA device'"
	PYTHONPATH=. $(GPU_PYTHON) -m pytest -m gpu --slow -p no:cacheprovider \
		tests/gpu tests/unit/test_data_arrays.py tests/property/test_mixing.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/augmentation.py --device cuda
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/harness_overhead.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/bill.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/gar_cost.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/ohl_cost.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/autodo_cost.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/fds_cost.py
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/hba_cost.py

# The stamp makes a second call instant; a changed pyproject.toml installs again.
$(READY): pyproject.toml
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'augbench needs Python 3.11'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) local
