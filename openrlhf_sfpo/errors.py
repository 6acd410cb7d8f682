"""The one exception that is meant for the person at the keyboard."""


class UsageError(ValueError):
    """Bad input. The message names the flag (or file) at fault and how to mend it.

    The command line prints it without a traceback and exits with status 2.
    """

    def __init__(self, flag: str, problem: str, fix: str) -> None:
        super().__init__(f"{flag}: {problem} {fix}")
        self.flag = flag
        self.problem = problem
        self.fix = fix
