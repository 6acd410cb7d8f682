"""Keeps API keys in the environment, and out of flags, files that a run writes, logs and what is sent to Weights &
Biases."""

import importlib.util
import netrc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError

WANDB_FLAG = "logger.wandb.key"
WANDB_VARIABLE = "WANDB_API_KEY"
# The flag's value that enables W&B with the key in the environment; it also replaces every key that is given.
FROM_ENVIRONMENT = "env"
# Earlier versions wrote this into config.yaml.
_NOT_WRITTEN_DOWN = "(not written down)"


def take_keys(settings: dict[str, Any]) -> None:
    """Move a W&B key from the settings into the environment; `env` remains in its place.

    Args:
        settings: flags by dotted name, changed in place.

    Raises:
        UsageError: the value is `env`, and the environment has no key.
    """
    key = settings.get(WANDB_FLAG)
    if not key:
        return
    if importlib.util.find_spec("wandb") is None:
        raise UsageError(f"--{WANDB_FLAG}", "needs the package wandb, which is not installed.", "pip install wandb.")
    if key not in (FROM_ENVIRONMENT, _NOT_WRITTEN_DOWN):
        os.environ[WANDB_VARIABLE] = str(key)
    elif not _has_wandb_key():
        raise UsageError(
            f"--{WANDB_FLAG}",
            f"is {FROM_ENVIRONMENT}, and there is no W&B key in the environment.",
            f"Set {WANDB_VARIABLE}, run `wandb login`, or set WANDB_MODE=offline.",
        )
    elif _is_offline():
        os.environ.setdefault(WANDB_VARIABLE, "0" * 40)  # OpenRLHF logs in before W&B looks at its mode
    settings[WANDB_FLAG] = FROM_ENVIRONMENT


def key_in(words: list[str]) -> str | None:
    """The W&B key on a command line; None if there is none, or `env`."""
    for number, word in enumerate(words):
        # `compare` has it as --set logger.wandb.key=KEY.
        name, equals, value = word.removeprefix("--set=").partition("=")
        if name == f"--{WANDB_FLAG}" or (equals and name == WANDB_FLAG):
            value = value if equals else "".join(words[number + 1 : number + 2])
            if value not in (FROM_ENVIRONMENT, _NOT_WRITTEN_DOWN, ""):
                return value
    return None


def hide(words: list[str]) -> None:
    """Remove a key on the command line from what `ps` shows of this process, and warn that others may have seen it."""
    key = key_in(words)
    if key is None:
        return
    print(
        f"openrlhf-sfpo: warning: the key after --{WANDB_FLAG} was on the command line, where every user of this "
        f"machine can read it, and shells remember it. Set {WANDB_VARIABLE} instead, and give --{WANDB_FLAG} env.",
        file=sys.stderr,
    )
    with suppress(ImportError, OSError):
        from setproctitle import setproctitle  # vLLM needs it, too

        shown = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        if key in shown:
            setproctitle(shown.replace(key, FROM_ENVIRONMENT))


def environment_to_pass_on() -> dict[str, str]:
    """Environment variables for the processes of a cluster, which do not inherit the driver's: keys and W&B's settings,
    except the address of this process's W&B service."""
    names = [name for name in os.environ if name == "HF_TOKEN" or name.startswith("WANDB_")]
    return {name: os.environ[name] for name in names if name != "WANDB_SERVICE"}


def _is_offline() -> bool:
    return os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun", "disabled")


def _has_wandb_key() -> bool:
    if os.environ.get(WANDB_VARIABLE) or _is_offline():
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False
