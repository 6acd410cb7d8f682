"""OpenRLHF's own command line, without importing OpenRLHF."""

import argparse
import ast
import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError

_OPENRLHF_CLI = "openrlhf/cli/train_ppo_ray.py"


def openrlhf_parser() -> argparse.ArgumentParser:
    """OpenRLHF's own parser, without importing OpenRLHF, which would import vLLM and DeepSpeed and take twenty seconds.

    Its parser is built by statements under `if __name__ == "__main__"`; those up to parse_args are run here.
    """
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("openrlhf", "is not installed.", "Install it (see the README).")
    source = Path(spec.submodule_search_locations[0]).parent / _OPENRLHF_CLI
    main_block = next(
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    )
    end = next(index for index, node in enumerate(main_block.body) if "parse_args" in ast.unparse(node))
    # A patched OpenRLHF adds our flags at this point.
    own = [node for node in main_block.body[:end] if not ast.unparse(node).startswith("if sfpo:")]
    building = ast.Module(body=own, type_ignores=[])
    scope: dict[str, Any] = {"argparse": argparse, "datetime": datetime}
    exec(compile(building, str(source), "exec"), scope)
    return scope["parser"]
