"""`openrlhf-sfpo`: picks the command. Each command is one file beside this one."""

import sys

COMMANDS = {"train": "train a model with SFPO (or GRPO) through OpenRLHF"}


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
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
        print(f"openrlhf-sfpo: there is no command {argv[0]!r}; there is {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    from openrlhf_sfpo.cli import train

    return train.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
