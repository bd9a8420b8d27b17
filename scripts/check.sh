#!/usr/bin/env bash
# Static checks.
#
#   scripts/check.sh [fmt|lint|doc|deny|advisories]…    the first four without an argument, deny only if there is cargo-deny
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"
export PATH=$PATH:$cache/cargo/bin

fmt() {
	cargo fmt --all --check
	if have gofmt; then
		local untidy
		untidy=$(gofmt -l tests/gohost tests/goldens)
		[ -z "$untidy" ] || die "gofmt would change $untidy"
	fi
}

lint() {
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	! have go || { (cd tests/gohost && go vet ./...) && (cd tests/goldens/seccomp && go vet ./...); }
	! have shellcheck || shellcheck -x -P SCRIPTDIR scripts/*.sh .ci/run
}

doc() {
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
}

deny() {
	cargo deny --all-features --locked check bans licenses sources
}

# Apart, because it asks the network for the advisory database.
advisories() {
	cargo deny --all-features --locked check advisories
}

if [ $# -eq 0 ]; then
	set -- fmt lint doc
	if have cargo-deny; then set -- "$@" deny; else say "cargo-deny is not installed, dependencies are not judged (make deny installs it)"; fi
fi
for step in "$@"; do
	case $step in fmt | lint | doc | deny | advisories) "$step" ;; *) die "unknown check $step" ;; esac
done
