#!/usr/bin/env bash
# Run the test suites and print one line for each.
#
#   scripts/test.sh             all suites, in order
#   SUITE="unit gohost" scripts/test.sh
#   SUITE=lifecycle-24-v1 FILTER=exec scripts/test.sh    only the tests with `exec` in their name
#
# A suite name ends in the containerd it uses (16 = Debian's 1.6, 24 = 2.4 from the cache) and the cgroup version:
# v1 is the machine as it is, v2 is a user-mode Linux guest. One suite alone writes to the terminal; otherwise the
# output is in target/suites/SUITE.log and its end is shown when the suite fails.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"
export CARGO_TERM_COLOR=never

# Suites that are joined by + run at the same time: most of their time they wait, and a guest has the other core.
all="fmt lint unit protocol+gohost telemetry
lifecycle-16-v1+lifecycle-24-v2 lifecycle-24-v1+options-24-v2
options-16-v1+options-24-v1 images-16-v1+images-24-v1 conformance-16-v1+conformance-24-v1
chaos-16-v1+chaos-24-v1 killloop-16-v1+killloop-24-v1 faults-16-v1+faults-24-v1"
# By name only: they take as long again in the guest.
extra="lifecycle-16-v2 options-16-v2 conformance-24-v2 conformance-16-v2 chaos-24-v2 chaos-16-v2 killloop-24-v2"
read -r -d '' -a batches <<<"${SUITE:-$all}" || true
read -r -d '' -a suites <<<"${batches[*]//+/ }" || true
for suite in "${suites[@]}"; do
	[[ " ${all//[$'\n'+]/ } $extra " == *" $suite "* ]] || die "unknown suite $suite; there are: ${all//[$'\n'+]/ } $extra"
done

out=$target/suites
mkdir -p "$out"
export CD_DRIVER_BIN=$out/containerd-driver
export CD_DRIVER_CHAOS_BIN=$out/containerd-driver-chaos
export CD_CONTAINERD_16=${CD_CONTAINERD_16:-/usr/bin/containerd}
export CD_CONTAINERD_24=${CD_CONTAINERD_24:-$cache/containerd-2.4.2/bin}
# Without: the frames of a test say little, and hide what failed from whoever sees the end of a log alone.
export RUST_BACKTRACE=${RUST_BACKTRACE:-0}
# What each case has shown, by containerd, cgroup version and runtime: docs/conformance.md is made of it.
export CD_CONFORMANCE_DIR=${CD_CONFORMANCE_DIR:-$out/conformance}
mkdir -p "$CD_CONFORMANCE_DIR"

# --- building -----------------------------------------------------------------------------------------------------

# wanted PATTERN…: a suite that fits one of them is to be run.
wanted() {
	local suite pattern
	for suite in "${suites[@]}"; do
		for pattern in "$@"; do
			# shellcheck disable=SC2254
			case $suite in $pattern) return 0 ;; esac
		done
	done
	return 1
}

# The drivers are copied aside: the next build with other features writes to the same file name.
build() {
	if wanted protocol gohost telemetry 'lifecycle-*' 'options-*' 'images-*' 'conformance-*' 'chaos-*' 'killloop-*' 'faults-*'; then
		# The whole workspace each time: with other packages, features differ and everything is built again.
		cargo build --workspace --locked
		install -m 755 "$target/debug/containerd-driver" "$CD_DRIVER_BIN"
	fi
	if wanted 'chaos-*' 'killloop-*'; then
		cargo build --workspace --locked --features containerd-driver/chaos
		install -m 755 "$target/debug/containerd-driver" "$CD_DRIVER_CHAOS_BIN"
	fi
	if wanted unit protocol telemetry 'lifecycle-*' 'options-*' 'images-*' 'conformance-*' 'chaos-*' 'killloop-*' 'faults-*'; then
		# "Executable tests/golden/main.rs (target/debug/deps/golden-0123456789abcdef)" becomes "golden PATH",
		# "Executable unittests src/lib.rs (…)" becomes "unittests PATH".
		cargo test --workspace --no-run --locked 2>&1 | tee /dev/stderr | awk '
			$1 == "Executable" {
				path = $NF; gsub(/[()]/, "", path)
				name = path; sub(/.*\//, "", name); sub(/-[0-9a-f]+$/, "", name)
				print ($2 == "unittests" ? "unittests" : name), path
			}' >"$out/executables"
	fi
	if wanted 'gohost'; then
		(cd tests/gohost && go build -buildvcs=false -o "$out/gohost" .)
	fi
}

# executables NAME: the paths of test binaries of that name.
executables() { awk -v name="$1" '$1 == name { print $2 }' "$out/executables"; }

# --- running ------------------------------------------------------------------------------------------------------

# What `rust` leaves out.
skip=()

# rust THREADS NAME [PREFIX…]: run the test binaries of one name, all even if one fails.
rust() {
	local threads=$1 name=$2 path status=0
	shift 2
	local paths
	paths=$(executables "$name")
	if [ -z "$paths" ]; then
		echo "there is no test binary named $name"
		return 1
	fi
	for path in $paths; do
		case $path in /*) ;; *) path=$root/$path ;; esac
		# shellcheck disable=SC2086
		"$@" "$path" --test-threads "$threads" --color never "${skip[@]}" ${FILTER:-} || status=$?
		# 77: there can be no guest here, see uml.sh.
		[ "$status" -eq 0 ] || [ "$status" -eq 77 ] || status=1
	done
	return $status
}

unit() {
	local name status=0
	for name in unittests architecture golden fuzz; do
		rust 2 "$name" || status=1
	done
	return $status
}

# real NAME CONTAINERD CGROUP: a suite against a real containerd.
real() {
	local prefix=() fstype binary=$1
	skip=()
	case $1 in
	# The kill loop is a suite of its own, since it is as long as one wants.
	killloop)
		binary=chaos
		skip=(killloop::)
		;;
	chaos)
		skip=(--skip killloop::)
		# Hundreds of launches and starts: too much for the guest, but for those that FILTER picks.
		if [ "$3" = v2 ] && [ -z "${FILTER:-}" ]; then
			skip+=(--skip steps_)
		fi
		;;
	esac
	fstype=$(stat -f -c %T /sys/fs/cgroup)
	export CD_KIND=$2
	case $3 in
	v1)
		if [ "$fstype" = cgroup2fs ]; then
			echo "this machine has cgroup v2 only; the suite runs on it all the same"
		fi
		;;
	v2)
		# With all suites, of the tasks' lives only what cgroups have a part in: a process takes 25 times as long in the guest.
		if [ "$1" = lifecycle ] && [ -z "${SUITE:-}" ]; then
			local group
			for group in acceptance audit burst cache:: credentials:: density disk doctor events exec_bounds exec_crun exec_recovery \
				go_driver health load:: logs lost network outage pulling:: reaper refusals shim_ without_containerd; do
				skip+=(--skip "$group")
			done
		fi
		# And with crun only by name: the whole has to be done in ninety minutes.
		if [ "$1" = options ] && [ -z "${SUITE:-}" ]; then
			skip+=(--skip crun)
		fi
		prefix=(scripts/uml.sh)
		export UML_TIMEOUT=${UML_TIMEOUT:-1450}
		;;
	esac
	rust 1 "$binary" "${prefix[@]}"
}

# The containerd that `protocol` is run with.
newest() { if [ -x "$CD_CONTAINERD_24/containerd" ]; then echo 2.4; else echo 1.6; fi; }

# keep SUITE LOG: the output of a suite whose tests note nothing themselves, as SUITE-CONTAINERD-CGROUP-RUNTIME.log.
# A part of the tests would look like all that there are.
keep() {
	local version cgroup=v1
	[ -z "${FILTER:-}" ] || return 0
	case $1 in
	protocol) version=$(newest) ;;
	chaos-16-*) version=1.6 ;;
	chaos-24-*) version=2.4 ;;
	*) return 0 ;;
	esac
	if [[ $1 = *-v2 ]] || [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then cgroup=v2; fi
	install -m 644 "$2" "$CD_CONFORMANCE_DIR/${1%%-*}-$version-$cgroup-runc.log"
}

# Seconds, LIMIT sets another. Generous: it only keeps a hanging suite from eating the whole run.
limit() { case $1 in "${LIMIT:+$1}") echo "$LIMIT" ;; lint) echo 900 ;; lifecycle-*-v1 | chaos-*-v1 | faults-*-v1 | images-*-v1) echo 1500 ;; *-v2) echo 1500 ;; *-v1) echo 900 ;; *) echo 400 ;; esac; }

run_suite() {
	case $1 in
	fmt) scripts/check.sh fmt ;;
	lint) scripts/check.sh lint doc ;;
	unit) unit ;;
	protocol) CD_KIND=$(newest) rust 2 protocol ;;
	telemetry) real telemetry 2.4 v1 ;;
	gohost) "$out/gohost" --driver "$CD_DRIVER_BIN" ;;
	killloop-16-v*) CD_KILL_LOOP_SECONDS=${CD_KILL_LOOP_SECONDS:-60} real killloop 1.6 "${1##*-}" ;;
	killloop-24-v*) CD_KILL_LOOP_SECONDS=${CD_KILL_LOOP_SECONDS:-180} real killloop 2.4 "${1##*-}" ;;
	*-16-v*) real "${1%%-*}" 1.6 "${1##*-}" ;;
	*-24-v*) real "${1%%-*}" 2.4 "${1##*-}" ;;
	esac
}

# counts FILE: "N passed, N failed, N ignored" summed over the results in a log; nothing if it has none.
counts() {
	awk '
		/^test result:/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } seen = 1 }
		/^gohost: / { p += $2; f += $4; seen = 1 }
		END { if (seen) printf "%d passed, %d failed, %d ignored", p, f, s }' "$1"
}

# reasons LOG: what the failed tests said, without what else they printed.
reasons() {
	awk '
		/^thread .* panicked at / || /^error/ { lines = 14 }
		# What the plugin said is in the log.
		/^{"@level"/ { next }
		/^note: run with/ || /^stack backtrace:/ || /^  .* … / { lines = 0 }
		/^the suite took longer/ { print }
		lines > 0 { print substr($0, 1, 700); lines-- }' "$1" | head -c 3000 || true
}

# In the background and a group of its own, so that the limit can end the suite and what it started.
timed() {
	local suite=$1 log=$2 show='' status=0 end
	end=$((SECONDS + $(limit "$suite")))
	set -m
	(run_suite "$suite") >"$log" 2>&1 &
	running=$!
	set +m
	if [ ${#suites[@]} -eq 1 ]; then
		tail -n +1 -s 0.2 -f --pid="$running" "$log" &
		show=$!
	fi
	while kill -0 "$running" 2>/dev/null; do
		if [ "$SECONDS" -ge "$end" ]; then
			echo "the suite took longer than $(limit "$suite") s and was ended" >>"$log"
			kill -TERM -- "-$running" 2>/dev/null || true
			sleep 2
			kill -KILL -- "-$running" 2>/dev/null || true
			break
		fi
		sleep 0.1
	done
	wait "$running" || status=$?
	running=
	[ -z "$show" ] || wait "$show" || true
	return $status
}

# one SUITE: runs it and leaves its line of the table in SUITE.line; fails if it fails.
one() {
	local suite=$1 log=$out/$1.log start result tenths verdict=pass status=0
	trap '[ -z "$running" ] || kill -TERM -- "-$running" 2>/dev/null' EXIT
	trap 'exit 143' TERM
	: >"$log"
	start=$(date +%s%N)
	timed "$suite" "$log" || status=$?
	case $status in
	0) ;;
	77) verdict=none ;;
	*) verdict=FAIL ;;
	esac
	keep "$suite" "$log"
	# A suite that ran no test has shown nothing.
	result=$(counts "$log")
	case $verdict:$suite:$result in
	none:*) result=$(sed -n 's/^uml: //p' "$log" | tail -n 1) ;;
	*:fmt:* | *:lint:*) ;;
	*:'' | *:'0 passed, 0 failed'*) verdict=FAIL ;;
	esac
	tenths=$((($(date +%s%N) - start) / 100000000))
	printf '%-17s %s %6d.%d s  %s\n' "$suite" "$verdict" $((tenths / 10)) $((tenths % 10)) "$result" >"$out/$suite.line"
	[ "$verdict" != FAIL ]
}

running=
lanes=()
trap '[ ${#lanes[@]} -eq 0 ] || kill -TERM "${lanes[@]}" 2>/dev/null || true; wait' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin=$SECONDS
# Not as a condition: then the shell would carry on after a failed step.
build
say "built in $((SECONDS - begin)) s"

table=() failed=0 refused=()
for batch in "${batches[@]}"; do
	IFS=+ read -r -a batch <<<"$batch"
	lanes=()
	for suite in "${batch[@]}"; do
		rm -f "$out/$suite.line"
		(one "$suite") &
		lanes+=($!)
	done
	for at in "${!batch[@]}"; do
		suite=${batch[at]}
		if ! wait "${lanes[at]}"; then
			failed=$((failed + 1))
			refused+=("$suite")
			if [ ${#suites[@]} -gt 1 ]; then tail -n 60 "$out/$suite.log"; fi
		fi
		line=$(cat "$out/$suite.line" 2>/dev/null || printf '%-17s FAIL' "$suite")
		table+=("$line")
		echo "$line"
	done
	lanes=()
done

if [ ${#suites[@]} -gt 1 ]; then
	echo
	printf '%s\n' "${table[@]}"
	for suite in "${refused[@]}"; do
		printf '\n%s failed for:\n' "$suite"
		reasons "$out/$suite.log"
	done
fi
absent=$(printf '%s\n' "${table[@]}" | grep -c '^[^ ]* *none ' || true)
[ "$absent" -eq 0 ] || echo "$absent suites cannot be run on this machine, see above"
echo "$((${#suites[@]} - failed - absent)) of ${#suites[@]} suites passed in $((SECONDS - begin)) s; logs in $out"
[ "$failed" -eq 0 ]
