# `make help` says what there is. Every goal makes the machine ready by itself (etc/setup.sh).

python := .venv/bin/python

# Bytecode is kept, whatever the environment says: otherwise pytest rewrites every test at each run
# (a seventh of test-quick), and what was changed since the setup is compiled at every start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo hunt test test-quick test-bare check bench faults stacks drawn fuzz soak install deb clean
.PHONY: setup-demo setup-hunt setup-test setup-bench setup-install setup-deb

help:
	@echo 'make demo        a real program, several threads, probe programs put in and out, live'
	@echo 'make hunt        who damages the data of a program? a core, a watchpoint, a core, a repair'
	@echo 'make test        check, then every test, and which of them took longest'
	@echo 'make test-quick  the tests of the parts, and one of each way through the whole'
	@echo 'make test-bare   demo and test on a bare Debian in a folder (root, mmdebstrap)'
	@echo 'make check       format, lint, types, layers, generated files'
	@echo 'make bench       the figures that we promise, side by side with what we compare to'
	@echo 'make faults      500 tracers and daemons are killed at random moments (ROUNDS=): nothing comes of it'
	@echo 'make stacks      stacks of 23 real programs at 50 places each (PLACES=), and what gdb finds: the same frames'
	@echo 'make drawn       100,000 drawn programs in Python and in C (DRAWN=), natively (DRAWN_NATIVE=), 2,000 in the kernel: the same'
	@echo 'make fuzz        3,000,000 programs that nobody would write (FUZZ=), 3,000 in the kernel: no harm done'
	@echo 'make soak        ten minutes of processes that come and go, and of a service under load'
	@echo 'make install     for all users: PREFIX=/usr/local, DESTDIR= before it'
	@echo 'make deb         Debian packages in build/: dprobed with the service, and the kernel module (dkms)'
	@echo 'make clean       remove what the other goals made, the virtual environment too'

demo: setup-demo
	@$(python) etc/demo.py

hunt: setup-hunt
	@$(python) etc/examples/hunt/hunt.py

# What has one daemon and one machine runs in one process, the kernel's tests in another.
test: check
	@$(python) -m pytest --durations=20 --numprocesses=logical --maxprocesses=4 --dist=loadscope

# The tests of the parts do not disturb each other; the others have one daemon and one machine.
test-quick: setup-test
	@$(python) -m pytest --quiet --durations=5 --numprocesses=logical --maxprocesses=8 --dist=loadfile \
		-m 'not slow' tests/unit tests/test_*.py
	@$(python) -m pytest --quiet --durations=5 @tests/quick.txt

test-bare:
	@python3 etc/bare.py

check: setup-test
	@$(python) -m ruff format --check --quiet .
	@$(python) -m ruff check --quiet .
	@$(python) -m mypy --strict dprobed clients tests etc kernel_bridge
	@$(python) -m pytest --quiet tests/test_layers.py
	@$(python) -m dprobed.program.rpn.reference --check
	@$(python) -m dprobed.program.bt.reference --check
	@$(python) -m kernel_bridge.isa_header --check
	@$(python) -m tests.tree --check
	@$(python) etc/man.py --check
	@$(python) etc/grammar.py --check
	@! groff -man -ww -z docs/man/* 2>&1 | grep .

bench: setup-bench
	@$(python) -m tests.benchmarks.run

ROUNDS ?= 500

faults: setup-test
	@$(python) -m tests.faults $(ROUNDS)

stacks: setup-test
	@$(python) -m tests.stacks $(PLACES)

DRAWN ?= 100000
DRAWN_IN_KERNEL ?= 2000
DRAWN_NATIVE ?= 100000

drawn: export DPROBED_DRAWN := $(DRAWN)
drawn: export DPROBED_DRAWN_NATIVE := $(DRAWN_NATIVE)
drawn: export DPROBED_DRAWN_IN_KERNEL := $(DRAWN_IN_KERNEL)
drawn: setup-test
	@$(python) -m pytest --quiet --durations=2 tests/kernel -k drawn_programs
	@$(python) -m pytest --quiet --timeout=0 --numprocesses=logical tests/unit/program/exec/native -k drawn

FUZZ ?= 3000000
FUZZ_IN_KERNEL ?= 3000

fuzz: export DPROBED_FUZZ := $(FUZZ)
fuzz: export DPROBED_FUZZ_IN_KERNEL := $(FUZZ_IN_KERNEL)
fuzz: setup-test
	@$(python) -m pytest --quiet --timeout=0 tests/kernel/test_fuzz.py

soak: setup-test
	@$(python) -m tests.soak.run

PREFIX ?= /usr/local

install: setup-install
	@etc/install.sh '$(PREFIX)' '$(DESTDIR)'

deb: setup-deb
	@etc/deb.sh
	@etc/deb_dkms.sh

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup-demo setup-hunt setup-test setup-bench setup-install setup-deb: setup-%:
	@etc/setup.sh $*
