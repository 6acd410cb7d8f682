"""`openrlhf-sfpo export`: the model in a checkpoint as a Hugging Face directory."""

import argparse
import sys

from openrlhf_sfpo.checkpoints.directory import CheckpointRefused, find_checkpoint
from openrlhf_sfpo.cli.parser import Parser
from openrlhf_sfpo.config.values import as_path
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import check_writable


def main(argv: list[str] | None = None) -> int:
    """Export; return the exit status: 0, or 2 for bad input."""
    parser = Parser(
        prog="openrlhf-sfpo export",
        description="Write the model in a checkpoint as a Hugging Face directory, which transformers and vLLM load. "
        "Needs no GPU, and memory for the largest tensors only.",
    )
    parser.add_argument(
        "checkpoint",
        type=as_path,
        metavar="CHECKPOINT",
        help="a checkpoint, or a run directory or --ckpt.path, of which the newest whole one is taken",
    )
    parser.add_argument("out", type=as_path, metavar="OUT", help="the directory to write")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), help="of the tensors (default: as in training)")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        return _export(args)
    except UsageError as error:
        print(f"openrlhf-sfpo export: error: {error}", file=sys.stderr)
        return 2


def _export(args: argparse.Namespace) -> int:
    check_writable("OUT", args.out)
    if args.out.exists() and any(args.out.iterdir()):
        raise UsageError("OUT", f"{args.out} is not empty.", "Choose another directory.")
    if not args.checkpoint.is_dir():
        raise UsageError(
            "CHECKPOINT", f"{args.checkpoint} is not a directory.", "Give a checkpoint or a run directory."
        )
    try:
        checkpoint = find_checkpoint(args.checkpoint, lambda reason: print(f"left out: {reason}", file=sys.stderr))
    except CheckpointRefused as reason:
        raise UsageError("CHECKPOINT", f"{reason}.", reason.fix) from None
    from openrlhf_sfpo.checkpoints.export import export

    dtype = export(checkpoint, args.out, args.dtype)
    print(f"{args.out}: the model of step {checkpoint.step} in {str(dtype).removeprefix('torch.')}")
    return 0
