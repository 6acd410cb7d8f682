#!/usr/bin/env bash
# recipes/train.sh with Skywork-OR1's problems, recipe and stages:
#
#   bash examples/recipes/skywork-or1.sh NAME [FLAGS]
#
# SKYWORK says where the data set is (default: skywork-or1 in DATA, where its download puts it).
set -euo pipefail

recipes="$(dirname "${BASH_SOURCE[0]}")"
name="$1"
place="${SKYWORK:-${DATA:-$PWD/data}/skywork-or1}"
shopt -s nullglob
code=("$place"{,/data}/code*.parquet)
math=("$place"{,/data}/math*.parquet)
[ ${#code[@]} -gt 0 ] && [ ${#math[@]} -gt 0 ] || {
    echo "skywork-or1.sh: $place has no math*.parquet and code*.parquet; once:" \
        "hf download --repo-type dataset Skywork/Skywork-OR1-RL-Data --local-dir $place" >&2
    exit 2
}
# The programs twice: there are few of them (recipe).
files=("${code[@]}" "${code[@]}" "${math[@]}")
exec bash "$recipes/train.sh" "$name" \
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml" --config "$recipes/skywork-or1.yaml" \
    --data.prompt_dataset "$(IFS=,; echo "${files[*]}")" --data.difficulty_model "$name" \
    --train.stages "$recipes/skywork-or1-stages.yaml" \
    "${@:2}"
