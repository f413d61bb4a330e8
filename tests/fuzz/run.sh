#!/usr/bin/env bash
# Fuzzes the parser of the bootstrap message under ASan and UBSan: `run.sh [libFuzzer's options]`, a minute by default.
# Needs clang and its runtime (Debian: clang, libclang-rt-14-dev). New inputs are kept in a folder that is thrown away.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/found"
clang -std=c11 -g -O2 -Wall -Wextra -Wno-unused-function -fno-sanitize-recover=all \
    -fsanitize=fuzzer,address,undefined -o "$work/fuzz" message.c
if [ $# -eq 0 ]; then
    set -- -max_total_time=60
fi
"$work/fuzz" -max_len=4096 -timeout=10 -print_final_stats=1 -artifact_prefix="$work/" "$@" "$work/found" corpus
