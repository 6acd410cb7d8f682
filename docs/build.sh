#!/usr/bin/env bash
# Builds the documentation into site/, in a few seconds. A warning, a broken link, a page that would load something from
# another server, or an outdated flag reference is an error.
#
#   bash docs/build.sh
#   python -m http.server --directory site     shows it at http://localhost:8000
#
# It needs the environment that requirements/install.sh makes (VENV, default: .venv), and adds requirements/docs.txt.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${VENV:-$root/.venv}/bin/python"
cd "$root"

[ -x "$python" ] || { echo "build.sh: there is no $python; run requirements/install.sh first." >&2; exit 1; }
"$python" -c "import material, mkdocs" 2>/dev/null ||
    "$python" -m pip --disable-pip-version-check install --quiet --no-deps -r requirements/docs.txt
"$python" docs/generate_flags.py --check
"$python" docs/check.py
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict --clean
"$python" docs/check.py --site site
echo "site/index.html"
