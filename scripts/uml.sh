#!/usr/bin/env bash
# Run one command inside a user-mode Linux kernel that has cgroup v2 only.
#
#   scripts/uml.sh COMMAND [ARG…]
#
# The guest sees this machine's files through hostfs at the same paths, so a test executable and its
# libraries need no copying. What overlayfs, sockets and FIFOs need lives on a tmpfs: TMPDIR (/run/tmp)
# and /run. The guest has one CPU, no network but loopback, and starts a process about 25 times
# more slowly than the host (measured: 18 ms for fork and exec of a small program, boot 2 s,
# a busybox container by ctr and runc 2 s).
#
# Environment: UML_TIMEOUT  seconds before the guest is killed (600); the status is then 124
#              UML_MEM      guest memory (3072M)
#              UML_KERNEL   kernel binary (linux.uml)
# PATH, HOME, USER, LANG, RUST_*, GO* and CD_* are passed on to the command, and so are the variables named in UML_ENV.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: scripts/uml.sh COMMAND [ARG…]" >&2; exit 2; }
kernel=$(command -v "${UML_KERNEL:-linux.uml}") || {
	echo "uml: linux.uml is missing; scripts/deps.sh test installs it (Debian package user-mode-linux)" >&2
	exit 2
}
[ "$(id -u)" = 0 ] || { echo "uml: must run as root, hostfs gives the guest's root no more than the caller's rights" >&2; exit 2; }
limit=${UML_TIMEOUT:-600}
work=$(mktemp -d "${TMPDIR:-/tmp}/uml.XXXXXX")

names=$(compgen -v | grep -E '^(PATH|HOME|USER|LANG|LC_ALL|RUST_.*|CARGO_MANIFEST_DIR|GO[A-Z]*|CD_.*)$' || true)
{
	for name in $names ${UML_ENV:-}; do
		[ -z "${!name+set}" ] || printf 'export %s=%q\n' "$name" "${!name}"
	done
	printf 'directory=%q\n' "$PWD"
	printf 'command=('
	printf '%q ' "$@"
	printf ')\n'
	printf 'work=%q\n' "$work"
} >"$work/settings"

cat >"$work/init" <<'INIT'
#!/bin/bash
# First process of the guest. The kernel's own messages go to tty1 (a file), the command's output to tty0.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=$(dirname "$0")

finish() {
	trap - ERR
	echo "$1" >"$work/status"
	echo o >/proc/sysrq-trigger
	sleep 60
}
trap 'echo "uml: line $LINENO of the guest init failed: $BASH_COMMAND"; finish 125' ERR

mount -t proc proc /proc
mount -t sysfs sysfs /sys
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
exec </dev/null >/dev/tty0 2>&1
# The other end of tty0 is a pipe or a file, which wants no carriage returns.
stty -opost -echo </dev/tty0
mount -t tmpfs -o mode=755,size=75% tmpfs /run
mkdir -m 1777 /run/tmp /run/lock
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# One by one: this kernel has no cpuset, and one unknown name would refuse them all.
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
	echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
echo uml >/proc/sys/kernel/hostname
# The kernel asks for modules (overlay at the first mount, bridge and netfilter for CNI) through this helper.
echo "$work/modprobe" >/proc/sys/kernel/modprobe
for module in overlay veth; do "$work/modprobe" "$module"; done
# State of the host's own containerd, if it has one, must not be touched through hostfs.
for path in /var/lib/containerd /var/lib/cni; do
	[ ! -d "$path" ] || mount -t tmpfs tmpfs "$path"
done

. "$work/settings"
export TMPDIR=/run/tmp HOME="${HOME:-/root}"
cd "$directory"
trap - ERR
"${command[@]}"
finish $?
INIT

cat >"$work/modprobe" <<'MODPROBE'
#!/bin/bash
# modprobe [-q --] NAME: what this needs of kmod, which is not installed with user-mode-linux. NAME may be an alias.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
name=${*: -1}
tree=/usr/lib/uml/modules/$(uname -r)
for module in $(awk -v want="${name//-/_}" '$1 == "alias" { a = $2; gsub(/-/, "_", a); if (a == want) print $3 }' "$tree/modules.alias") "$name"; do
	line=$(grep -E "/${module//[-_]/[-_]}\.ko:" "$tree/modules.dep") || continue
	files=(${line/:/ })
	# Dependencies are listed nearest first, so the farthest is loaded first; one already loaded is no error.
	for ((i = ${#files[@]} - 1; i >= 0; i--)); do
		busybox insmod "$tree/${files[i]}" 2>/dev/null
	done
	loaded=$(basename "${files[0]}" .ko)
	grep -q "^${loaded//-/_} " /proc/modules && exit 0
done
exit 1
MODPROBE
chmod +x "$work/init" "$work/modprobe"

# Its own session: the kernel and the guest's processes, which are processes of the host, form one process group.
setsid "$kernel" mem="${UML_MEM:-3072M}" rootfstype=hostfs rw init="$work/init" \
	con=null con0=null,fd:1 con1=null,fd:3 console=tty1 ssl=null uml_dir="$work" umid=guest \
	selinux=0 random.trust_cpu=on </dev/null 2>"$work/early" 3>"$work/kernel" &
guest=$!

# shellcheck disable=SC2329
cleanup() {
	# The group holds the kernel and every guest process, and nothing else.
	kill -KILL -- "-$guest" 2>/dev/null || true
	wait "$guest" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

deadline=$((SECONDS + limit))
while kill -0 "$guest" 2>/dev/null; do
	if [ "$SECONDS" -ge "$deadline" ]; then
		echo "uml: killed after $limit s" >&2
		exit 124
	fi
	sleep 0.2
done
if [ ! -s "$work/status" ]; then
	if grep -q put_fp_registers "$work/kernel"; then
		echo "uml: user-mode Linux cannot run on this processor, whose registers (AMX) need more room than it has for them" >&2
		exit 77
	fi
	echo "uml: the guest ended without a status; its kernel said last:" >&2
	tail -n 40 "$work/early" "$work/kernel" >&2
	exit 125
fi
status=$(cat "$work/status")
exit "$status"
