#!/usr/bin/env bash
# Everything that can be checked without running the code; `tests/run.sh` begins with it.
#
#   bash tests/gates.sh                  all gates
#   bash tests/gates.sh types spelling   some of them
#
#   lint        ruff's rules                     scripts     shellcheck on every shell script
#   format      ruff's formatting                docs        the documentation builds, and no link is broken
#   types       mypy, strict in sfpo, config and system
#   spelling    codespell                        imports     which room of the package may import which
#   collect     pytest finds and imports every test
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
bin="$venv/bin"
all=(lint format spelling scripts imports collect docs types)
cd "$root" || exit 1

lint() { "$bin/ruff" check --quiet .; }
format() { "$bin/ruff" format --quiet --check . || { echo "Run ruff format."; return 1; }; }
types() { "$bin/mypy" --no-error-summary; }
spelling() { "$bin/codespell"; }
docs() { VENV="$venv" bash docs/build.sh; }
collect() { "$bin/python" -m pytest -q --collect-only -p no:cacheprovider; }
imports() { "$bin/python" -m pytest -q --durations=0 -p no:cacheprovider tests/unit/test_house.py; }
scripts() {
    local files
    mapfile -t files < <(grep -rlE '^#!.*\bbash' .ci docker docs examples requirements tests --include='*.sh' \
        --include='*.sbatch' --include=run)
    "$bin/shellcheck" --severity=style "${files[@]}"
}

wanted=("${@:-${all[@]}}")
for name in "${wanted[@]}"; do
    case " ${all[*]} " in *" $name "*) ;; *) echo "gates.sh: there is no gate $name: ${all[*]}" >&2; exit 2 ;; esac
done

# Installs the pinned tools, which a run does not need.
list="$root/requirements/gates.txt"
stamp="$venv/.openrlhf_sfpo_gates"
if [ "$(cat "$stamp" 2>/dev/null)" != "$(cat "$list" "$root/requirements/docs.txt")" ]; then
    # Shows pip's output only if it fails.
    said="$("$bin/python" -m pip --disable-pip-version-check install --quiet --no-deps -r "$list" 2>&1)" ||
        { echo "$said" >&2; exit 1; }
    cat "$list" "$root/requirements/docs.txt" >"$stamp"
fi

# Types take as long as all other gates together, so they run concurrently.
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
run() {
    local started=$SECONDS
    "$1" >"$logs/$1" 2>&1
    echo "$? $((SECONDS - started))" >"$logs/$1.status"
}
for name in "${wanted[@]}"; do [ "$name" != types ] || run types & done
for name in "${wanted[@]}"; do [ "$name" = types ] || run "$name"; done
wait

failed=()
for name in "${wanted[@]}"; do
    read -r status seconds <"$logs/$name.status"
    printf '%-10s %-7s %3d s\n' "$name" "$([ "$status" = 0 ] && echo ok || echo FAILED)" "$seconds"
    [ "$status" = 0 ] || { failed+=("$name"); cat "$logs/$name"; }
done
[ ${#failed[@]} = 0 ] || { echo "gates.sh: ${failed[*]} failed; again with: bash tests/gates.sh ${failed[*]}" >&2; exit 1; }
