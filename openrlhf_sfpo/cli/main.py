"""`openrlhf-sfpo`: dispatches to the commands. Each command is a file in this directory."""

import codecs
import difflib
import importlib
import io
import locale
import os
import sys

from openrlhf_sfpo.cli.process import guarded

COMMANDS = {
    "train": "train a model with SFPO (or GRPO) through OpenRLHF",
    "eval": "sample answers from a model with vLLM and grade them",
    "compare": "train with several presets, settings and seeds, and compare them",
    "plan": "memory on each GPU, pipeline bubble and layouts that fit, before a GPU is taken",
    "doctor": "check versions, GPUs, Ray, memory and disk, for a command line or in general",
    "patch": "give an OpenRLHF that is installed already the --sfpo.* flags",
    "export": "write the model in a checkpoint as a Hugging Face directory",
    "report": "tables, plots and a page about one or more runs",
}


def use_utf8() -> None:
    """Make this process and its children use UTF-8 for arguments, file names, files and output, whatever the locale is.
    If the locale has another encoding, Python is restarted in the same process."""
    names = (locale.getpreferredencoding(False), sys.getfilesystemencoding())
    if any(codecs.lookup(name).name != "utf-8" for name in names) and not sys.flags.utf8_mode:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    if argv is None:
        use_utf8()
    words = sys.argv[1:] if argv is None else argv
    name = " ".join(["openrlhf-sfpo", *(word for word in words[:1] if word in COMMANDS)])
    return guarded(name, lambda: _main(words))


def _main(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        from openrlhf_sfpo import __version__

        print(f"openrlhf-sfpo {__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: openrlhf-sfpo COMMAND [...]\n\ncommands:")
        for name, what in COMMANDS.items():
            print(f"  {name:10s} {what}")
        print("\nopenrlhf-sfpo COMMAND --help tells more.")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        close = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Commands: {', '.join(COMMANDS)}."
        print(f"openrlhf-sfpo: error: {argv[0]!r} is not a command. {hint}", file=sys.stderr)
        return 2
    # "eval" is a Python builtin, so its file has the long name.
    module = {"eval": "evaluate"}.get(argv[0], argv[0])
    return importlib.import_module(f"openrlhf_sfpo.cli.{module}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
