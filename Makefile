# The two commands in the README, and their parts.
#   make demo   a cluster on this machine, left running
#   make test   everything that must hold before a change lands

CARGO ?= cargo
LAB    = $(CARGO) run --quiet --package lab --
RELEASE = $(CARGO) build --release --locked --package k8s-bootstrap

.PHONY: demo test check unit seeds page e2e e2e-vm e2e-certificates bench bench-app dist image build tools audit mutants clean-lab

demo: tools build
	$(LAB) up --control-planes 1 --workers 2
	@echo; $(LAB) kubectl -- get nodes -o wide
	@echo; $(LAB) kubectl -- get pods --all-namespaces -o wide
	@echo; $(LAB) exec w1 -- systemctl status --no-pager --lines=5 k8s-bootstrap
	@echo; $(LAB) kubectl -- wait --for=create --timeout=180s --namespace visits statefulset/redis
	@$(LAB) kubectl -- rollout status --timeout=180s --namespace visits statefulset/redis
	@for worker in 10.42.0.11 10.42.0.12; do \
	    timeout 180 sh -c "until $(LAB) curl -- --silent --show-error --fail --output target/visits.html http://$$worker/ \
	        && grep -q 'id=.visits.' target/visits.html; do sleep 2; done" && \
	    sed -n "s|.*id=\"\(visits\)\" value=\"\([0-9]*\)\".*|the page through $$worker: \1 \2|p" target/visits.html || exit 1; \
	done
	@echo; echo 'The cluster is left running. To go on, as root:'
	@echo '  cargo run -p lab -- status                      what the machines do'
	@echo '  cargo run -p lab -- kubectl -- get pods -A      any kubectl command'
	@echo '  cargo run -p lab -- launch --role worker        one more node, by itself'
	@echo '  cargo run -p lab -- exec cp1 -- k8s-bootstrap plan'
	@echo '  cargo run -p lab -- --help                      terminate, stop, start, logs, ...'
	@echo '  make clean-lab                                  ends it and leaves nothing behind'

test: tools check unit seeds page e2e

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings
	$(CARGO) clippy --workspace --test e2e --test page --test proofs --test seeds --locked -- --deny warnings

unit:
	$(CARGO) test --workspace --locked

# Ten thousand simulated clusters of six sizes, run by the release build: a test build would take
# ten times as long. A million take half an hour: make seeds TIMES=100
TIMES ?= 1

seeds: build
	TIMES=$(TIMES) $(CARGO) test --workspace --locked --test seeds -- --nocapture

# The `aws` commands of docs/getting-started.md, with the AWS CLI against moto: a minute, without
# the lab and without root.
page: tools build
	$(CARGO) test --workspace --locked --test page

# One control plane, two workers, and what can happen to them. If the machine cannot run the lab,
# the tests are skipped with a message; with CI=true they fail.
# Builds the whole workspace, as `unit` does: with another set of packages the dependencies would
# have other features and be built again. Some scenarios only:
# make e2e SCENARIOS="a_rebooted_node_comes_back"
SCENARIOS ?=

e2e: tools build
	SCENARIOS="$(SCENARIOS)" $(CARGO) test --workspace --locked --test e2e

# Only the worker with a kernel of its own. Takes a quarter of an hour if the processor is emulated.
VM = a_virtual_machine_is_launched_next_to_the_others its_pods_wait_for_it \
     a_virtual_machine_joins_with_the_defaults its_pods_reach_others_while_networkd_restarts \
     pods_on_its_own_network_do_not_reach_the_metadata it_reboots \
     a_rebooted_virtual_machine_comes_back a_terminated_virtual_machine_leaves

e2e-vm:
	$(MAKE) e2e SCENARIOS="$(VM)"

# Years in minutes: three control planes and two workers with certificates valid for ten minutes.
# Takes two hours; fewer rounds: make e2e-certificates RENEWALS=3 SWITCH_OFFS=1 CLUSTERS=1
RENEWALS    ?= 20
SWITCH_OFFS ?= 10
CLUSTERS    ?= 3

e2e-certificates: tools build
	RENEWALS=$(RENEWALS) SWITCH_OFFS=$(SWITCH_OFFS) CLUSTERS=$(CLUSTERS) $(CARGO) test --workspace --locked --test proofs

# This agent and, in turn, kubeadm in a careful engineer's user-data, on a temporary lab: 20 pairs
# of workers and 10 of first control planes, twenty minutes on two cores with nothing else running.
bench: tools build
	$(LAB) bench-nodes --results bench/results

# The application against its Flask twin, in turn, on the running lab or on a temporary one: 50,000
# requests, 500 at once. Options: `cargo run -p lab -- bench-app --help`.
bench-app: tools build
	bench/packages.sh
	$(LAB) bench-app --results bench/results

# What a release consists of, into target/dist. URL=... names the place where it will be published.
dist:
	release/dist.sh

# The application's image as an archive, without a container engine; docs/application.md pushes it.
image:
	$(LAB) image --output target/visits.tar

build:
	$(RELEASE)
	$(CARGO) build --release --locked --package visits

# The Debian packages that the lab and the tests need, installed only if one is missing.
tools:
	lab/packages.sh
	app/packages.sh

audit:
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --all-features check bans licenses sources
	$(CARGO) deny --all-features check advisories || echo "advisories: their database does not answer, or a finding is listed above"

# Mutates the code that decides, one expression at a time, and lists what the fast tests of its own
# room do not detect: the tests of all rooms would take most of the time. Each of the three hundred
# changes takes ten to thirty seconds of one core; two are judged side by side.
MUTATE = $(CARGO) mutants --package k8s-bootstrap --exclude '**/tests.rs' --minimum-test-timeout 120 --jobs 2 --cargo-arg=--lib \
    --output target/mutants
JUDGED = -- --locked --

mutants:
	command -v cargo-mutants >/dev/null || $(CARGO) install --locked cargo-mutants
	mkdir -p target/mutants
	$(MUTATE)/decide --file src/decide.rs --file 'src/decide/**/*.rs' $(JUDGED) decide::; decide=$$?; \
	$(MUTATE)/healing --file src/leader/healing.rs $(JUDGED) leader::; healing=$$?; \
	$(MUTATE)/join --file src/join/judge.rs --file src/join/proof.rs --file src/join/csr.rs \
	    $(JUDGED) join:: adapters::join::; join=$$?; \
	exit $$((decide | healing | join))

clean-lab:
	$(LAB) down
