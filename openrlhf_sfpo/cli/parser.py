"""argparse for commands with few flags of their own: one-line errors with suggestions."""

import argparse
from typing import Any, NoReturn

from openrlhf_sfpo.config.suggestions import similar

_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """Accepts only full flag names, and prints no usage with an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        names = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        word = message.removeprefix(_UNKNOWN).split(" ")[0].partition("=")[0]
        hint = f"{self.prog} --help lists the flags."
        if message.startswith(_UNKNOWN) and word.startswith("-"):
            message = f"{word}: is not a flag."
            close = similar(word.lstrip("-"), names)
            hint = f"Did you mean {' or '.join(f'--{one}' for one in close)}?" if close else hint
        self.exit(2, f"{self.prog}: error: {message.rstrip('.')}. {hint}\n")
