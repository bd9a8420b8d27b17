#!/usr/bin/env bash
# A thousand tasks on this node, figure by figure with its limit, beside `ctr` on the same containerd.
#
#   scripts/density.sh
#   N=50 KIND=1.6 PARTS="none logs" scripts/density.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

export CD_CONTAINERD_16=${CD_CONTAINERD_16:-/usr/bin/containerd}
export CD_CONTAINERD_24=${CD_CONTAINERD_24:-$cache/containerd-2.4.2/bin}

# The driver of the log pump that is killed; beside the other, since both builds write to one file name.
if [ -z "${CD_DRIVER_CHAOS_BIN:-}" ]; then
	export CD_DRIVER_CHAOS_BIN=$target/density/containerd-driver-chaos
	mkdir -p "$target/density"
	cargo build --workspace --release --locked --features containerd-driver/chaos
	install -m 755 "$target/release/containerd-driver" "$CD_DRIVER_CHAOS_BIN"
fi
# The whole workspace: with other packages, features differ and everything is built again.
cargo bench --workspace --locked --bench density
