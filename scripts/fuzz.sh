# shellcheck shell=bash
# Coverage-guided fuzzing of the daemon's parsers with libFuzzer, on the stable
# compiler: the instrumentation flags below are the ones that cargo-fuzz passes,
# without the address sanitizer, which only a nightly compiler has (the parsers
# hold no unsafe code).

readonly FUZZ_FLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
	-Cllvm-args=-sanitizer-coverage-trace-compares"
readonly FUZZ_TRIPLE=x86_64-unknown-linux-gnu

# fuzz [TARGET|all] [SECONDS]
fuzz() {
	local wanted="${1:-all}" seconds="${2:-60}" target ran=0 running=()
	[[ $seconds =~ ^[1-9][0-9]*$ ]] || usage_error "fuzz takes a target and a number of seconds, not '$seconds'"
	have cargo || die "cargo is missing" "./x setup"
	RUSTFLAGS="${FUZZ_FLAGS//[$'\n\t']/ }" cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml \
		--target "$FUZZ_TRIPLE" --target-dir "$TARGET_DIR/fuzz" >&2 || die "the fuzz targets do not build"
	for target in fuzz/src/bin/*.rs; do
		target="$(basename -- "$target" .rs)"
		[[ $wanted == all || $wanted == "$target" ]] || continue
		ran=$((ran + 1))
		# One for each core: a target uses no more.
		if ((${#running[@]} >= $(nproc))); then
			wait "${running[0]}" || fuzz_failed "${running[@]}"
			running=("${running[@]:1}")
		fi
		fuzz_one "$target" "$seconds" &
		running+=($!)
	done
	for target in "${running[@]}"; do
		wait "$target" || fuzz_failed "${running[@]}"
	done
	((ran > 0)) || usage_error "there is no fuzz target '$wanted'"
	printf '%d passed, 0 failed\n' "$ran"
}

# Waits for those that still run, so that nothing goes on behind the message of the first.
fuzz_failed() {
	wait "$@" || true
	exit 1
}

# What is found new is kept in the target directory; an input that fails is
# named by libFuzzer there, to be put among the seeds once it is understood.
fuzz_one() {
	local corpus="$TARGET_DIR/fuzz/corpus/$1" found="$TARGET_DIR/fuzz/found/$1-"
	mkdir -p "$corpus" "$(dirname -- "$found")"
	say fuzz "$1 for $2 s…"
	"$TARGET_DIR/fuzz/$FUZZ_TRIPLE/release/$1" "$corpus" "fuzz/seeds/$1" -max_total_time="$2" -timeout=10 \
		-rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$found" 2>&1 |
		grep -E 'panicked|ERROR|SUMMARY|Test unit|stat::number_of_executed|^==' >&2
	((PIPESTATUS[0] == 0)) || die "fuzz target $1 failed" "see the input named above, below $found"
}
