# shellcheck shell=bash
# gVisor: the official release of the pinned date where it can be reached, else
# a build of the pinned Go module. One directory per version; old versions stay,
# because a memory snapshot is restored only by the version that wrote it.
#
#   runsc/<version>/runsc
#   runsc/<version>/gvisor-bin/gvisor_sentry           hard link of runsc when built here
#   runsc/<version>/gvisor-bin/checkpointgofer
#   runsc/<version>/gvisor-bin/gvisor-sentry-prewarmer added by `x build`; see below
#   runsc/current                                      the version in use, as text
#
# runsc refuses to start with a prewarmer but no gvisor_sentry, so the prewarmer
# always comes last.

readonly GVISOR_MODULE=gvisor.dev/gvisor
readonly GVISOR_RELEASE=release-20260907.0
readonly GVISOR_BUILT=release-20260905-tarn1
readonly GVISOR_GO=1.26.3
readonly GVISOR_URL="${TARN_GVISOR_URL:-https://storage.googleapis.com/gvisor/releases/release/${GVISOR_RELEASE#release-}/x86_64}"

# Prints the installed version; fails when none of this pin is installed.
gvisor_current() {
	local version
	version="$(cat "$TARN_ASSETS_DIR/runsc/current" 2>/dev/null)" || return 1
	[[ $version == "$GVISOR_RELEASE" || $version == "$GVISOR_BUILT" ]] || return 1
	[[ -x $TARN_ASSETS_DIR/runsc/$version/runsc ]] || return 1
	[[ -x $TARN_ASSETS_DIR/runsc/$version/gvisor-bin/gvisor_sentry ]] || return 1
	echo "$version"
}

setup_gvisor() {
	gvisor_current >/dev/null || with_lock install_gvisor
}

# Runs under the lock.
install_gvisor() {
	gvisor_current >/dev/null && return 0
	local start=$SECONDS version tmp
	rm -rf --one-file-system -- "$TARN_ASSETS_DIR"/runsc/.tmp-*
	tmp="$(mktemp -d "$TARN_ASSETS_DIR/runsc/.tmp-XXXXXX")"
	# shellcheck disable=SC2064 # expand now
	trap "chmod -R u+w '$tmp' 2>/dev/null; rm -rf --one-file-system -- '$tmp'" EXIT
	mkdir -p "$tmp/out/gvisor-bin"

	say setup "gVisor: trying the official release ${GVISOR_RELEASE#release-}…"
	if logged gvisor-release fetch_gvisor_release "$tmp" 2>/dev/null; then
		version="$GVISOR_RELEASE"
	else
		say setup "gVisor: no official release to be had, building from the Go module (about 80 s)…"
		setup_go "$tmp"
		logged gvisor-build build_gvisor "$tmp" ||
			die "runsc cannot be built" "see the log above; it needs the Go module proxy and about 2 GB of disk"
		version="$GVISOR_BUILT"
	fi
	adopt_gvisor "$tmp/out" "$version"
	say setup "gVisor: $version installed ($(seconds_since "$start"))"
}

# Moves a finished directory into place and names it current.
adopt_gvisor() {
	local out="$1" version="$2" home="$TARN_ASSETS_DIR/runsc/$2" printed
	printed="$("$out/runsc" --version | awk 'NR == 1 { print $NF }')"
	[[ $printed == "$version" ]] || die "runsc says it is '$printed', not '$version'"
	[[ -x $out/gvisor-bin/gvisor_sentry ]] || die "gVisor came without gvisor_sentry"
	chmod -R u=rwX,go=rX "$out"
	[[ ! -e $home ]] || mv -T -- "$home" "$(dirname -- "$out")/replaced"
	mv -T -- "$out" "$home"
	write_file "$TARN_ASSETS_DIR/runsc/current" <<<"$version"
}

# The release is one archive with its published checksum.
fetch_gvisor_release() {
	local tmp="$1" name
	for name in gvisor.tar.zstd.sha512 gvisor.tar.zstd; do
		curl -fsSL --connect-timeout 5 --speed-limit 10000 --speed-time 30 \
			-o "$tmp/$name" "$GVISOR_URL/$name" || return 1
	done
	(cd "$tmp" && sha512sum --check --strict gvisor.tar.zstd.sha512) || return 1
	tar --zstd --no-same-owner -C "$tmp/out" -xf "$tmp/gvisor.tar.zstd" || return 1
	# Ours is installed by `x build` instead.
	rm -f -- "$tmp/out/gvisor-bin/gvisor-sentry-prewarmer"
	[[ -x $tmp/out/runsc ]]
}

# Builds in caches of its own, so that nothing is left behind.
build_gvisor() (
	tmp="$1"
	mkdir "$tmp/src"
	cp scripts/gvisor/go.mod scripts/gvisor/go.sum "$tmp/src/" || return 1
	cd "$tmp/src" || return 1
	go_caches "$tmp"
	export GOWORK=off CGO_ENABLED=0 GOARCH=amd64 GOOS=linux
	"$GO" build -mod=readonly -trimpath -buildvcs=false \
		-ldflags "-s -w -X $GVISOR_MODULE/runsc/version.version=$GVISOR_BUILT" \
		-o "$tmp/out/runsc" "$GVISOR_MODULE/runsc" || return 1
	module="$("$GO" list -mod=readonly -m -f '{{.Dir}}' "$GVISOR_MODULE")" || return 1
	# The one program serves as command and as sentry; the helper for
	# checkpoints comes ready in the module.
	ln "$tmp/out/runsc" "$tmp/out/gvisor-bin/gvisor_sentry" || return 1
	install -m 755 "$module/runsc/checkpointgofer/checkpointgofer.bin" \
		"$tmp/out/gvisor-bin/checkpointgofer"
)

# The user's settings (a proxy, say) hold; everything Go writes goes below $1.
go_caches() {
	export GOENV="${GOENV:-${XDG_CONFIG_HOME:-$HOME/.config}/go/env}" XDG_CONFIG_HOME="$1/config"
	export GOPATH="$1/go-path" GOMODCACHE="$1/mod" GOCACHE="$1/cache"
	export GOFLAGS=-modcacherw GOTOOLCHAIN=local
}

# Sets GO to a go command that is new enough: setup_go TMP.
setup_go() {
	local found
	for found in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go; do
		[[ -n $found && -x $found ]] || continue
		if version_at_least "$(GOTOOLCHAIN=local "$found" env GOVERSION | sed 's/^go//')" "$GVISOR_GO"; then
			GO="$found"
			return 0
		fi
	done
	if [[ -z $(command -v go || true) ]]; then
		have apt-get || die "building gVisor needs Go $GVISOR_GO or newer" "install Go (https://go.dev/dl), then run x again"
		say setup "Go: installing the distribution's…"
		DEBIAN_FRONTEND=noninteractive apt_install golang-go ||
			die "Go cannot be installed" "apt-get install golang-go"
	fi
	say setup "Go: fetching toolchain $GVISOR_GO…"
	logged go fetch_go "$1" || die "the Go toolchain $GVISOR_GO cannot be fetched" \
		"install Go $GVISOR_GO or newer (https://go.dev/dl), then run x again"
	GO="$1/go/bin/go"
}

# Go toolchains are published as modules; an older go fetches and verifies one.
fetch_go() {
	local tmp="$1" name="golang.org/toolchain@v0.0.1-go$GVISOR_GO.linux-amd64"
	(
		cd "$tmp" || exit 1
		go_caches "$tmp"
		go mod download -json "$name" || exit 1
		cp -r "$tmp/mod/$name" "$tmp/go" || exit 1
	) || return 1
	# A module zip carries no modes, and may hold no go.mod of another module.
	chmod -R u=rwX,go=rX "$tmp/go"
	chmod 755 "$tmp"/go/bin/* "$tmp"/go/pkg/tool/*/* || return 1
	find "$tmp/go" -name _go.mod -execdir mv -- {} go.mod \;
	"$tmp/go/bin/go" version
}

# Puts our prewarmer beside the sentry, when it differs from the one there.
install_prewarmer() {
	local version home
	version="$(gvisor_current)" || return 0
	home="$TARN_ASSETS_DIR/runsc/$version/gvisor-bin"
	cmp -s -- "$1" "$home/gvisor-sentry-prewarmer" && return 0
	install -m 755 -- "$1" "$home/.tmp-prewarmer-$$"
	mv -f -- "$home/.tmp-prewarmer-$$" "$home/gvisor-sentry-prewarmer"
}
