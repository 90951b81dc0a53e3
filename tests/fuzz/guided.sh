#!/usr/bin/env bash
# Runs the targets under libFuzzer, one after the other: guided.sh FOLDER SECONDS [TARGET].
#
# FOLDER keeps the build, the findings, and what is found beyond the corpus in the tree. The compiler's own
# coverage pass is asked for by name, which the stable compiler accepts; the address sanitizer, which it does
# not have, would have little to find in code without `unsafe`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$1 seconds=$2 only=${3:-}
: "${ROCKSDB_LIB_DIR:?is not set: \`make fuzz\` says where RocksDB is, or it would be built once more}"

export CARGO_TARGET_DIR="$folder"
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
flags+=(-Ccodegen-units=1)
# With a target named, the flags are for what runs there and not for build scripts.
RUSTFLAGS="${flags[*]}" cargo build --target "$host" -p handfast-fuzz --features libfuzzer --bin handfast-libfuzzer
program="$CARGO_TARGET_DIR/$host/debug/handfast-libfuzzer"

[[ -z $only || -d tests/fuzz/corpus/$only ]] || { echo "fuzz: no target $only" >&2 && exit 2; }
mkdir -p "$folder/findings" "$folder/logs"
failed=0
corpora=(tests/fuzz/corpus/*/)
[[ -z $only ]] || corpora=("tests/fuzz/corpus/$only/")
for corpus in "${corpora[@]}"; do
    target=$(basename "$corpus")
    log="$folder/logs/$target.log"
    mkdir -p "$folder/corpus/$target"
    outcome="no finding"
    HANDFAST_FUZZ_TARGET=$target "$program" -max_total_time="$seconds" -max_len=4096 -timeout=20 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$folder/findings/$target-" \
        "$folder/corpus/$target" "$corpus" >"$log" 2>&1 || outcome="A FINDING"
    awk -v target="$target" -v outcome="$outcome" '
        / cov: / { for (i = 1; i < NF; i++) { if ($i == "cov:") edges = $(i + 1); if ($i == "ft:") features = $(i + 1) } }
        /stat::number_of_executed_units/ { inputs = $2 }
        /stat::average_exec_per_sec/ { speed = $2 }
        END { printf "%s: %d inputs, %d a second, %d edges, %d features, %s\n", target, inputs, speed, edges, features, outcome }
    ' "$log"
    if [[ $outcome != "no finding" ]]; then
        failed=1
        grep -m 5 -E "panicked at|^(attempt|assertion)|SUMMARY|Test unit written" -A 2 "$log" || tail -n 20 "$log"
        echo "to have it again: cargo run -p handfast-fuzz -- replay $target FILE; the log is $log"
    fi
done
exit "$failed"
