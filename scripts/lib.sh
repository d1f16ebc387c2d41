# shellcheck shell=bash
# shellcheck disable=SC2034 # read by the other pieces
# Shared by the pieces of `x`: directories, progress lines, errors, locks.
# Progress and errors go to stderr; stdout belongs to the programs `x` runs.

TARN_ASSETS_DIR="${TARN_ASSETS_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/tarn}"
TARN_DATA_DIR="${TARN_DATA_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/tarn}"
TARN_TEST_CACHE="${TARN_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn-test}"
TARGET_DIR="${CARGO_TARGET_DIR:-$ROOT/target}"
GUEST_TARGET=x86_64-unknown-linux-musl
TARN_BIN="$TARGET_DIR/release/tarn"
TARND_BIN="$TARGET_DIR/$GUEST_TARGET/guest/tarnd"

# The places where system tools live that a plain user's PATH may lack.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# Prints one progress line: say TOPIC TEXT.
say() {
	printf '[%s] %s\n' "$1" "$2" >&2
}

# Ends with an error: die TEXT [REMEDY].
die() {
	printf 'x: %s\n' "$1" >&2
	[[ -z ${2:-} ]] || printf 'x: to fix it: %s\n' "$2" >&2
	exit 1
}

usage_error() {
	printf 'x: %s\n\n' "$1" >&2
	usage >&2
	exit 2
}

require_platform() {
	[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] ||
		die "tarn runs on Linux on x86_64; this is $(uname -s) on $(uname -m)"
}

# Sandboxes need namespaces, mounts, cgroups and nftables on the host.
require_root() {
	((EUID == 0)) || die "$1 must run as root (it mounts, and makes namespaces and cgroups)" \
		"sudo --preserve-env=HOME,PATH ./x …"
}

have() {
	command -v "$1" >/dev/null 2>&1
}

# Refuses to remove anything but a named tree below a directory of ours, and
# never follows a mount that something left inside.
remove_tree() {
	[[ -n $1 && $1 == /*/* ]] || die "refuses to remove '$1'"
	rm -rf --one-file-system -- "$1"
}

prepare_dirs() {
	mkdir -p "$TARN_ASSETS_DIR"/{runsc,images,log}
}

# Runs a long step with its output in a log file, and shows the log's end when
# it fails: logged NAME COMMAND…
logged() {
	local log="$TARN_ASSETS_DIR/log/$1.log"
	shift
	if "$@" >"$log" 2>&1 </dev/null; then
		return 0
	fi
	tail -n 30 "$log" >&2
	printf 'x: the full log is %s\n' "$log" >&2
	return 1
}

# Runs a command under the assets lock, so that two `x` at once build each
# asset one time: with_lock COMMAND…  The command runs in a subshell; the lock
# is not inherited by anything it leaves behind as long as it closes fd 9.
with_lock() {
	(
		if ! flock --nonblock 9; then
			say setup "another set-up is at work in $TARN_ASSETS_DIR; waiting for it…"
			flock 9
		fi
		"$@"
	) 9>"$TARN_ASSETS_DIR/.lock"
}

# Writes stdin to a file so that readers see the old content or the new.
write_file() {
	local tmp
	tmp="$(mktemp "$(dirname -- "$1")/.tmp-file-XXXXXX")"
	cat >"$tmp"
	chmod 644 "$tmp"
	mv -f -- "$tmp" "$1"
}

# True when version $1 is at least version $2.
version_at_least() {
	[[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}

seconds_since() {
	printf '%d s' $((SECONDS - $1))
}
