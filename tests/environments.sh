#!/usr/bin/env bash
# The tests under what other machines do differently: instruction sets and with them rounding, numbers of threads,
# Python without its assertions, a user whom the system does not know and who has no home, a plain C locale, SIGINT ignored
# as in the background of a shell.
#
#   tests/environments.sh rounding [PYTEST ARGUMENTS]   other instruction sets and numbers of threads
#   tests/environments.sh nobody [PYTEST ARGUMENTS]     python -O, LC_ALL=C, SIGINT ignored, no HOME, and where root runs it
#                                                       as a user whom the system does not know
#
# QUICK, when not empty, leaves out slow tests.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
NOBODY=54321
MARKED="not exhaustive"
FAST="not slow and not exhaustive"
[ -z "${QUICK:-}" ] || MARKED=$FAST
what=${1:?expected rounding or nobody}
shift

# OpenVINO brings an oneDNN of its own, which these settings break: its tests are not for here.
rounding() {
	local setting="ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1"
	echo "== $setting"
	env $setting "$PYTHON" -m pytest -m "$MARKED" "$@"
	# Two threads for each of several workers on few cores: what takes long would take minutes more.
	setting="ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2"
	echo "== $setting, slow tests left out"
	env $setting "$PYTHON" -m pytest -m "$FAST" "$@"
}

# Run in a name space of mounts where every folder on the way to Python and to this checkout may be entered by anybody:
# interpreters under /root are for root alone elsewhere.
as_nobody() {
	local real prefix here
	here=$PWD
	real=$(readlink -f "$PYTHON")
	prefix=$(dirname "$(dirname "$real")")
	unshare --mount bash -euc '
		here=$1 prefix=$2 nobody=$3; shift 3
		hold=$(mktemp -d)
		for path in "$prefix" "$here"; do
			mkdir -p "$hold$path"
			mount --bind "$path" "$hold$path"
		done
		for path in "$prefix" "$here"; do
			top=/$(echo "$path" | cut -d/ -f2)
			if [ "$top" != /tmp ] && ! setpriv --reuid="$nobody" --clear-groups test -x "$top"; then
				mount -t tmpfs -o mode=755 none "$top"
				for held in "$prefix" "$here"; do
					case "$held" in "$top"/*) mkdir -p "$held"; mount --bind "$hold$held" "$held" ;; esac
				done
			fi
		done
		chmod 755 "$hold"
		cd "$here"
		exec setpriv --reuid="$nobody" --clear-groups --inh-caps=-all env -u HOME -u USER -u LOGNAME "$@"
	' bash "$here" "$prefix" "$NOBODY" "$@"
}

nobody() {
	scratch=$(mktemp -d) # not local: it is removed at the end of the script
	chmod 777 "$scratch"
	trap 'rm -rf "$scratch"' EXIT
	trap '' INT
	export PYTHONOPTIMIZE=1 LC_ALL=C TMPDIR=$scratch PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=$scratch/hypothesis
	unset HOME XDG_CACHE_HOME ADAPTRT_CACHE
	if [ "$(id -u)" = 0 ]; then
		as_nobody "$PYTHON" -m pytest -m "$MARKED" -p no:cacheprovider "$@"
	else
		"$PYTHON" -m pytest -m "$MARKED" -p no:cacheprovider "$@"
	fi
}

case $what in
rounding) rounding "$@" ;;
nobody) nobody "$@" ;;
*)
	echo "got $what, expected rounding or nobody" >&2
	exit 2
	;;
esac
