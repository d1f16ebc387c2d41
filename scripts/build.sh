# shellcheck shell=bash
# Builds what runs: the server, and the two static programs for sandboxes.

build() {
	have cargo || die "cargo is missing" "./x setup"
	prepare_dirs
	cargo_step "server" --release --package tarn-server
	cargo_step "daemon and prewarmer" --profile guest --target "$GUEST_TARGET" \
		--package tarn-guest --package tarn-prewarmer
	install_prewarmer "$TARGET_DIR/$GUEST_TARGET/guest/tarn-prewarmer"
}

# Says something only when the build takes long: cargo prints its own progress
# on a terminal, and errors anywhere.
cargo_step() {
	local start=$SECONDS what="$1"
	shift
	[[ -e $TARGET_DIR/release/tarn && -e $TARND_BIN ]] || say build "$what: compiling (minutes the first time)…"
	cargo build --quiet "$@" >&2 || die "the $what does not build"
	((SECONDS - start < 3)) || say build "$what: built ($(seconds_since "$start"))"
}
