# shellcheck shell=bash
# The Rust toolchain of rust-toolchain.toml, by rustup.

CARGO_BIN_DIR="${CARGO_HOME:-$HOME/.cargo}/bin"
[[ ! -d $CARGO_BIN_DIR ]] || PATH="$CARGO_BIN_DIR:$PATH"

setup_rust() {
	local channel toolchain start
	channel="$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)"
	toolchain="${RUSTUP_HOME:-$HOME/.rustup}/toolchains/$channel-x86_64-unknown-linux-gnu"
	rust_is_complete "$toolchain" && return 0
	start=$SECONDS
	say setup "Rust: installing toolchain $channel (about 30 s)…"
	have rustup || with_lock install_rustup
	PATH="$CARGO_BIN_DIR:$PATH"
	with_lock logged rust rustup toolchain install "$channel" --profile minimal \
		--component rustfmt --component clippy --target "$GUEST_TARGET" --no-self-update ||
		die "the Rust toolchain $channel cannot be installed" \
			"rustup toolchain install $channel --target $GUEST_TARGET"
	rust_is_complete "$toolchain" || die "the Rust toolchain in $toolchain is incomplete" \
		"rustup toolchain uninstall $channel, then run x again"
	say setup "Rust: toolchain $channel installed ($(seconds_since "$start"))"
}

rust_is_complete() {
	have cargo && [[ -x $1/bin/cargo && -x $1/bin/cargo-clippy && -x $1/bin/rustfmt &&
		-d $1/lib/rustlib/$GUEST_TARGET/lib ]]
}

# The official installer; where it cannot be reached, the distribution's rustup.
install_rustup() {
	local installer="$TARN_ASSETS_DIR/.rustup-init.sh"
	if curl -fsS --connect-timeout 5 --retry 2 -o "$installer" \
		"${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/rustup-init.sh" &&
		logged rustup sh "$installer" -y --no-modify-path --default-toolchain none --profile minimal; then
		rm -f -- "$installer"
		return 0
	fi
	rm -f -- "$installer"
	if have apt-get && DEBIAN_FRONTEND=noninteractive logged rustup apt_get_install rustup; then
		return 0
	fi
	die "rustup is missing and cannot be installed" "install rustup (https://rustup.rs), then run x again"
}
