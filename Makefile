# make claim and make test do all the set-up they need in .venv; nothing else on the machine is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CLAIM_OUT ?= claim

.PHONY: setup claim test kills bits radosgw ray slurm lint clean

setup: .venv/.ready

.venv/.ready: requirements/reference.txt setup.cfg
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), f"the reference environment needs Python 3.11, found {sys.version.split()[0]}: make setup PYTHON=/path/to/python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/reference.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps d3rlpy==2.8.1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

claim: setup  ## the main job: data, training, verdict, report
	$(BIN)/packmule claim --suite smoke --out $(CLAIM_OUT)

test: setup  ## every test, a file at a time on each core
	$(BIN)/python -m pytest -n auto --dist loadfile

kills: setup  ## 1000 SIGKILLs while appending; ten each of a sweep's workers and of its driver
	PACKMULE_KILLS=1000 $(BIN)/python -m pytest tests/test_faults.py -s -k sigkill
	PACKMULE_SWEEP_KILLS=10 $(BIN)/python -m pytest tests/test_sweep.py -k killed

bits: setup  ## flip every single bit of a small store, about an hour
	PACKMULE_EVERY_BIT=1 $(BIN)/python -m pytest tests/test_validate.py -k anywhere

radosgw: setup  ## the remote tests against Ceph's object gateway (Debian: radosgw ceph-mon ceph-osd), a few minutes
	tests/radosgw.sh $(BIN)/python -m pytest tests/test_remote.py tests/test_remote_runs.py tests/test_conformance.py

ray: setup  ## 60 runs on two Ray nodes, bit for bit; ten kills each of a worker, a node, the driver
	PACKMULE_ENGINE_RUNS=60 PACKMULE_ENGINE_KILLS=10 $(BIN)/python -m pytest tests/test_ray.py

slurm: setup  ## the same through a Slurm of two nodes on this machine (Debian: slurm-wlm munge), as root
	PACKMULE_ENGINE_RUNS=60 PACKMULE_ENGINE_KILLS=10 tests/slurm.sh $(BIN)/python -m pytest tests/test_slurm.py

lint: setup  ## style, types and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build *.egg-info
