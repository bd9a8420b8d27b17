#!/usr/bin/env bash
# Build the driver and show it at work: a demonstration host starts containerd, a registry and the driver, runs tasks
# and shows what happens, until Ctrl-C. Needs root, as containerd does.
#
#   scripts/run.sh [ARGUMENT OF THE DEMO]…
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

scripts/deps.sh run
cargo build --release --locked --workspace --bins
mkdir -p "$target/run"
# The demo handles Ctrl-C itself; it replaces this shell so that signals reach it and nothing else.
exec "$target/release/demo" --driver "$target/release/containerd-driver" \
	--containerd "${CD_CONTAINERD:-$(command -v containerd)}" --work "$target/run" "$@"
