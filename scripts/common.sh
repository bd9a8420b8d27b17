# shellcheck shell=bash
# Shared by the scripts beside it: paths and messages. Sourced after `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What takes long to build and survives `make clean`.
# shellcheck disable=SC2034
cache=${CONTAINERD_DRIVER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-driver}
target=${CARGO_TARGET_DIR:-$root/target}
# A relative target directory is relative to where cargo runs, which is always the root.
case $target in /*) ;; *) target=$root/$target ;; esac

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() {
	say "$@"
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# A build from nothing for every run: cargo's notes for the next change would only double what it takes on disk.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
