# Every target is one line of work; what takes more is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help run test check deny bench density deps goldens uml clean

# `make test SUITE=unit`, `make test SUITE="protocol gohost"`, `make test SUITE=lifecycle-24-v1 FILTER=exec`
export SUITE FILTER BENCH N KIND PARTS CURVE

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build the driver and show it at work with a real containerd, until Ctrl-C
	@scripts/run.sh

test: ## Run all test suites, or those named by SUITE; FILTER picks tests by name
	@scripts/deps.sh test
	@scripts/test.sh

check: ## Formatting, clippy without and with all features, documentation, licences if cargo-deny is there
	@scripts/check.sh

deny: ## Install cargo-deny into the cache and judge the dependencies, known advisories included
	@scripts/deps.sh deny
	@scripts/check.sh deny advisories

bench: ## Run the benchmarks, or the one named by BENCH: starts, pulls
	@scripts/deps.sh test
	@scripts/bench.sh

density: ## A thousand tasks on this node, each figure with its limit; N and KIND for others, e.g. N=50 KIND=1.6
	@scripts/deps.sh test
	@scripts/density.sh

deps: ## Install what is missing for run and test
	@scripts/deps.sh test

goldens: ## Write tests/goldens anew with containerd's own library; needs Go and root
	cd tests/goldens && go run -mod=mod -buildvcs=false .
	tests/goldens/seccomp/generate

uml: ## Run CMD under cgroup v2 in a user-mode Linux guest, e.g. make uml CMD="cat /proc/self/cgroup"
	@scripts/uml.sh sh -c '$(or $(CMD),stat -f /sys/fs/cgroup)'

clean: ## Remove what was built here; the cache stays
	cargo clean
