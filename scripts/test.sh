# shellcheck shell=bash
# The whole test run. Every suite runs even after a failure; the last line
# sums them up. Full output is under target/test-logs/, that of the run before
# under target/test-logs/before/.

TEST_LOGS="$TARGET_DIR/test-logs"
PASSED=0
FAILED=0
TEST_START=$SECONDS

run_tests() {
	local full=()
	while (($#)); do
		case "$1" in
		--full) full=(--full) ;;
		*) usage_error "test knows no argument '$1'" ;;
		esac
		shift
	done
	require_root "the test run"
	start_logs
	setup --test
	say test "set-up: ready ($(elapsed))"
	gates
	export TARN_TEST_VERSITYGW="$TARN_TEST_CACHE/bin/versitygw"
	export TARN_TEST_PEBBLE="$TARN_TEST_CACHE/acme"
	export TARN_TEST_REGISTRY="$TARN_TEST_CACHE/registry"
	export TARN_TEST_RUST="$TARN_TEST_CACHE/rust/bin/tarn-e2e-rust"
	suite unit "unit and component tests" limit 30m scripts/unit
	suite fuzz "fuzz targets, a second each or more" limit 15m "$ROOT/x" fuzz all "$((${#full[@]} ? 60 : 1))"
	local failed_before=$FAILED
	suite build "build" "$ROOT/x" build
	if ((FAILED == failed_before)); then
		export_test_env
		optional_suite e2e "end-to-end tests" e2e/run 60m "${full[@]}"
		optional_suite bench "small bench" bench/run 15m --small
		optional_suite bench-state "small bench of state" bench/run-state 15m --small
		if ((${#full[@]})); then
			optional_suite bench-gate "gate of the small bench" bench/run-gate 5m
		fi
	else
		say test "nothing to test end to end: the build failed"
	fi
	finish
}

lint() {
	(($# == 0)) || usage_error "lint takes no arguments"
	start_logs
	setup_rust
	gates
	finish
}

start_logs() {
	rm -rf -- "$TEST_LOGS/before"
	mkdir -p "$TEST_LOGS/before"
	find "$TEST_LOGS" -maxdepth 1 -name '*.log' -exec mv -t "$TEST_LOGS/before" -- {} +
	export CARGO_TERM_COLOR=never
}

gates() {
	suite lock "lock file" cargo metadata --locked --format-version 1
	suite fmt "format" cargo fmt --all --check
	suite clippy "clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings
	suite tidy "tidy" cargo xtask tidy
	suite deps "layers" cargo xtask deps
	suite openapi "OpenAPI document" cargo xtask openapi --check
	suite shell "shell scripts" check_shell
}

check_shell() {
	local script
	for script in x .ci/run scripts/*.sh "${IMAGE_SCRIPTS[@]}"; do
		bash -n "$script" || return 1
	done
	if have shellcheck; then
		shellcheck --external-sources x .ci/run "${IMAGE_SCRIPTS[@]}"
	fi
}

# optional_suite NAME TITLE PROGRAM LIMIT ARGUMENTS…
optional_suite() {
	local name="$1" title="$2" program="$3" longest="$4"
	shift 4
	if [[ -x $program ]]; then
		suite "$name" "$title" limit "$longest" "$program" "$@"
	else
		say test "$title: $program is not in this checkout"
	fi
}

# A suite that hangs must not take the summary with it.
limit() {
	timeout --foreground --kill-after=30s "$@"
}

# Runs one suite and adds up its counts: suite NAME TITLE COMMAND…  A suite
# that counts nothing is one test itself.
suite() {
	local name="$1" title="$2" start=$SECONDS status=0 passed failed
	shift 2
	say test "$title…"
	"$@" >"$TEST_LOGS/$name.log" 2>&1 </dev/null || status=$?
	read -r passed failed < <(counts "$TEST_LOGS/$name.log")
	if ((passed + failed == 0)); then
		passed=$((status == 0))
	fi
	if ((status != 0 && failed == 0)); then
		failed=1
	fi
	PASSED=$((PASSED + passed))
	FAILED=$((FAILED + failed))
	if ((status == 0 && failed == 0)); then
		say test "$title: $passed passed ($(seconds_since "$start"), $(elapsed) in all)"
		return 0
	fi
	report_failure "$name"
	say test "$title: $passed passed, $failed FAILED ($(seconds_since "$start"), $(elapsed) in all)"
}

# Reads the closing lines of cargo test, and of suites that close with
# "N passed, N failed".
counts() {
	awk '
		/^test result: / { passed += $4; failed += $6 }
		/^[0-9]+ passed, [0-9]+ failed/ { passed += $1; failed += $3 }
		END { print passed + 0, failed + 0 }' "$1"
}

# The part of a log that says why: its end, and after it what failed, because
# whoever shortens a long output keeps the last lines.
report_failure() {
	local log="$TEST_LOGS/$1.log"
	{
		printf -- '… the last lines of %s:\n' "$log"
		tail -n 30 "$log"
		printf -- '… what failed in it, by line number:\n'
		grep -nE '^(error|warning: unused|failures:|---- |FAILED |ERROR |E   |test .* FAILED|thread .* panicked)' "$log" | head -n 40
	} >&2 || true
}

elapsed() {
	seconds_since "$TEST_START"
}

finish() {
	say test "logs: $TEST_LOGS ($(elapsed))"
	printf '%d passed, %d failed\n' "$PASSED" "$FAILED"
	((FAILED == 0))
}
