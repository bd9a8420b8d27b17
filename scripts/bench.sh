#!/usr/bin/env bash
# Run the benchmarks: starts and pulls, beside `ctr` on each containerd. BENCH picks one.
#
#   scripts/bench.sh
#   BENCH=pulls scripts/bench.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

export CD_CONTAINERD_16=${CD_CONTAINERD_16:-/usr/bin/containerd}
export CD_CONTAINERD_24=${CD_CONTAINERD_24:-$cache/containerd-2.4.2/bin}

benches=()
for name in ${BENCH:-starts pulls}; do
	benches+=(--bench "$name")
done
# The whole workspace: with other packages, features differ and everything is built again.
cargo bench --workspace --locked "${benches[@]}"
