# SPDX-License-Identifier: GPL-2.0-or-later
# Short names for the scripts; none of them needs make.

.PHONY: check demo format update-golden mutation fuzz bench bench-causes bench-daemon image guest guest-matrix guest-service setup clean

check: ## the one gate: format, lint, types, tests, coverage
	./test

demo: ## check this machine and a captured one
	./demo

setup: ## .venv with all that the gate needs
	tools/setup.sh dev

format: setup ## put the code into the one form
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

update-golden: setup ## write the expected output anew; read the diff
	.venv/bin/pytest -n auto --update-golden

mutation: setup ## does a test notice every change of the decoding and grouping modules?
	PATH="$(CURDIR)/.venv/bin:$$PATH" python tools/mutation.py $(MUTANTS)

fuzz: ## search with a coverage-guided fuzzer for bytes that a reader does not withstand (docs/fuzzing.md; TARGETS=)
	tools/fuzz.sh $(TARGETS)

bench: setup ## time and memory on machines of up to 100,000 functions, into docs/performance.md (needs lspci)
	.venv/bin/python -m tools.bench.run --write

bench-causes: setup ## what finding causes costs on machines that are wrong, into docs/performance.md
	.venv/bin/python -m tools.bench.causes --write

bench-daemon: setup ## how soon the daemon shows a change and what it costs, into docs/performance.md
	.venv/bin/python -m tools.bench.daemon --write

image: setup ## build the container image's file system by its recipe and run it in a chroot (root, mmdebstrap, minutes)
	IOMMUD_TEST_IMAGE=1 .venv/bin/pytest tests/test_deploy.py

guest: setup ## boot six guests with real kernels under QEMU; fetched from Debian at first use (docs/guest-lab.md)
	tools/guests.sh

guest-matrix: setup ## boot every cell of the matrix, from where it was left, into docs/kernel-matrix.md (an hour or two)
	.venv/bin/python -m tests.guest.run matrix

guest-service: setup ## check the service in Debian guests with systemd, into docs/guest-service.md (an hour)
	.venv/bin/python -m tests.guest.service --suite trixie
	.venv/bin/python -m tests.guest.service --suite bookworm

clean: ## remove all that the above has made
	rm -rf .venv .cache mutants build dist
	find iommud tests tools -name __pycache__ -type d -exec rm -rf {} +
