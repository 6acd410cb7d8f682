"""Exceptions with a message for the user."""

import re
from collections.abc import Mapping
from typing import Any, Self


class UsageError(ValueError):
    """Bad input. The message names the flag (or file) at fault and how to fix it.

    The command line prints it without a traceback and exits with status 2. Rooms that know no flags, such as
    `megatron`, name the setting at fault, and write other settings in backticks: `config.setting_names` has the flags.
    """

    def __init__(self, flag: str, problem: str, fix: str) -> None:
        super().__init__(f"{flag}: {problem} {fix}")
        self.flag = flag
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.flag, self.problem, self.fix)  # so that it survives pickling

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same error with settings renamed: the one at fault, and those in backticks."""

        def rename(text: str) -> str:
            return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), text)

        return type(self)(names.get(self.flag, self.flag), rename(self.problem), rename(self.fix))


class NotThere(UsageError):
    """A file named by a flag does not exist yet: weights to be downloaded, data to be prepared."""
