"""Extracts the line that states the problem from an exception's message or a printed traceback."""

import re

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
# The line of a traceback that names the exception: "package.module.SomeError: what is wrong", or without a message.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*\.?[A-Z]\w*(:\s.*)?$")
_TRACEBACK = "Traceback (most recent call last):"


def plain(text: str) -> str:
    """Text without a terminal's color codes."""
    return _ANSI.sub("", text)


def summary(message: str) -> str:
    """The line of an exception's message that states the problem."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    if _TRACEBACK in lines:
        return (
            f"{lines[0].rstrip(':')}: {exception_line(message)}" if lines[0] != _TRACEBACK else exception_line(message)
        )
    if re.match(r"\d+ validation errors? for ", lines[0]) and len(lines) > 1:  # pydantic's; the problem comes next
        return re.sub(r" \[type=.*", "", lines[1]).removeprefix("Value error, ")
    if lines[0].endswith(":") and len(lines) > 1:
        return f"{lines[0]} {lines[1]}"
    return lines[0]


def exception_line(text: str) -> str:
    """The line in a printed traceback with the exception's class and message."""
    lines = text.strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith((" ", "\t"))]
    for number in range(frames[-1] + 1 if frames else 0, len(lines)):
        name, _, message = lines[number].partition(": ")
        if _EXCEPTION.match(name):
            found = summary("\n".join([message, *lines[number + 1 :]]))
            return f"{name.rpartition('.')[2]}: {found}".removesuffix(": ")
    # A message with indented lines, such as pydantic's: the class is further up.
    for number in reversed(range(len(lines))):
        name, colon, message = lines[number].partition(": ")
        if colon and _EXCEPTION.match(name) and not lines[number].startswith((" ", "\t")):
            found = summary("\n".join([message, *lines[number + 1 :]]))
            return f"{name.rpartition('.')[2]}: {found}".removesuffix(": ")
    return lines[-1].strip() if lines else "unknown reason"
