#!/usr/bin/env bash
# Install what is missing, and only that.
#
#   scripts/deps.sh run     what `make run` needs: a C compiler, protoc, containerd, runc, CNI plugins, a registry
#   scripts/deps.sh test    also crun, tini, user-mode Linux, and containerd 2.4 built with Go into the cache
#   scripts/deps.sh deny    cargo-deny, into the cache
#
# Rust and Go themselves are not installed: which way they come is the user's choice.
set -euo pipefail
. "$(dirname "$0")/common.sh"

containerd_version=2.4.2
deny_version=0.20.2

# What must not stay when this ends.
trash=()
trap 'rm -rf "${trash[@]}"' EXIT

# have_static NAME: the command exists and runs in a container without libraries.
have_static() { have "$1" && ! ldd "$(command -v "$1")" >/dev/null 2>&1; }

missing_packages() {
	have cc || echo build-essential
	have protoc || echo protobuf-compiler
	have containerd || echo containerd
	have runc || echo runc
	[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || echo containernetworking-plugins
	have docker-registry || echo docker-registry
	have_static busybox || echo busybox-static
	have ip || echo iproute2
	have iptables || echo iptables
	have git || echo git
	have openssl || echo openssl
	[ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
	[ "$1" = run ] && return
	have crun || echo crun
	[ -x /usr/bin/tini-static ] || echo tini
	have linux.uml || echo user-mode-linux
}

install_packages() {
	have apt-get || die "please install what these Debian packages hold: $*"
	[ "$(id -u)" = 0 ] || die "please run as root: apt-get install --no-install-recommends $*"
	# Debian starts a daemon when its package is installed. Ours are started by the tests, on sockets of their own,
	# so nothing may start here. An existing policy is somebody's decision and stays.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trash+=(/usr/sbin/policy-rc.d)
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod +x /usr/sbin/policy-rc.d
	fi
	say "installing $*"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "$@"
}

need_rust() {
	have cargo || die "cargo is missing; install Rust with rustup (https://rustup.rs), rust-toolchain.toml picks the version"
	(cd "$root" && cargo --version >/dev/null) || die "cargo does not start; see above, rust-toolchain.toml names the version"
}

need_go() {
	have go || die "go is missing; the tests need Go 1.26 or newer (https://go.dev/dl/)"
}

containerd_24() {
	local bin=$cache/containerd-$containerd_version/bin name missing=()
	for name in containerd containerd-shim-runc-v2 ctr; do
		[ -x "$bin/$name" ] || missing+=("github.com/containerd/containerd/v2/cmd/$name@v$containerd_version")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "building containerd $containerd_version into $bin (some minutes, once)"
	# Not from inside the repository: a go.mod there must not have a say. What the build leaves, over a gigabyte, goes.
	local scratch
	scratch=$(mktemp -d)
	trash+=("$scratch")
	(cd / && GOBIN=$bin GOFLAGS=-modcacherw GOCACHE=$scratch/build GOMODCACHE=$scratch/mod go install "${missing[@]}")
}

what=${1:-run}
case $what in
run | test)
	packages=$(missing_packages "$what")
	# shellcheck disable=SC2086
	[ -z "$packages" ] || install_packages $packages
	need_rust
	if [ "$what" = test ]; then
		need_go
		containerd_24
	fi
	;;
deny)
	need_rust
	have cargo-deny || [ -x "$cache/cargo/bin/cargo-deny" ] ||
		cargo install --root "$cache/cargo" cargo-deny --version "$deny_version" --locked
	;;
*) die "unknown set $what; run, test or deny" ;;
esac
