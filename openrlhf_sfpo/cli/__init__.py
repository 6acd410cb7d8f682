"""The command line: `openrlhf-sfpo COMMAND`."""
