"""`openrlhf-sfpo eval`: sample answers with vLLM, grade them, and say how sure the numbers are."""

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cli.parser import Parser
from openrlhf_sfpo.cli.values import as_path, expanded
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.files import check_writable
from openrlhf_sfpo.ranges import at_least, between, check_ranges, share
from openrlhf_sfpo.tasks.evaluation import PAPER_TEMPLATE, Problem, grader_for, load_problems, paper_specs
from openrlhf_sfpo.tasks.rewards import BUILTIN, check_reward, load_reward

# What --protocol paper stands for: the SFPO authors' evaluation.
_PAPER = {"samples": 4, "temperature": 1.0, "top_p": 0.7, "max_new_tokens": 2560, "grader": "math", "chat": None}
_PLAIN = {"samples": 4, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 1024, "grader": "auto", "chat": False}

_RANGES = {
    "samples": at_least(1),
    "temperature": at_least(0, "Use 0 (the likeliest token) or more."),
    "top_p": share(),
    "max_new_tokens": at_least(1),
    "seed": between(0, 2**31 - 1),
    "limit": at_least(1),
    "tensor_parallel_size": at_least(1),
    "gpu_memory_utilization": share(),
    "kv_cache_mb": at_least(1),
}


def main(argv: list[str] | None = None) -> int:
    """Evaluate; return the exit status: 0, 1 if sampling or grading failed, 2 for bad input."""
    args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        _fill_in(args)
        return _evaluate(args)
    except UsageError as error:
        print(f"openrlhf-sfpo eval: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="openrlhf-sfpo eval",
        description="Measure a model's accuracy: avg@k and pass@k of each data set with bootstrap intervals, response "
        "length and truncation. Writes eval.json, eval.md, eval.png and samples.jsonl, with every graded response.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="Hugging Face directory or name, or a run directory (its final model)")
    add(
        "--data",
        nargs="+",
        default=[],
        metavar="[NAME=]SOURCE",
        help="a .jsonl, .json or .parquet file, reasoning_gym:NAME?option=value&..., or a Hugging Face NAME@SPLIT",
    )
    add(
        "--protocol",
        choices=["paper"],
        help="the SFPO authors': MATH-500, AIME 24 and 25, AMC, Minerva and OlympiadBench, temperature 1, top_p 0.7, "
        "avg@4, math-verify on the last \\boxed{}, 2560 tokens; flags that are given win",
    )
    add("--data_dir", type=as_path, help="with --protocol paper: a directory with the six sets as NAME.jsonl")
    add("--samples", type=int, help="k: responses to each prompt (default: 4)")
    add("--temperature", type=float, help="(default: 1)")
    add("--top_p", type=float, help="(default: 1)")
    add("--max_new_tokens", type=int, help="(default: 1024)")
    add("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    add("--limit", type=int, help="take the first so many problems of each set")
    add("--grader", help=f"{', '.join(BUILTIN)}, FILE.py:FUNCTION, or auto: the generator's scorer, else math")
    add("--input_key", help="field of the problem (default: prompt, problem, question or input)")
    add("--label_key", help="field of the answer (default: label, answer, final_answer or reference_answer)")
    add("--input_template", help="prompt around the problem, which is put in place of {}")
    add("--chat", action=argparse.BooleanOptionalAction, help="apply the model's chat template (default: no)")
    add("--dtype", default="auto", choices=["auto", "bfloat16", "float32", "float16"], help="(default: %(default)s)")
    add("--tensor_parallel_size", type=int, default=1, help="GPUs of the engine (default: %(default)s)")
    add("--gpu_memory_utilization", type=float, default=0.9, help="(default: %(default)s)")
    add("--kv_cache_mb", type=int, default=1024, help="key/value cache where there is no GPU (default: %(default)s)")
    add("--out", type=as_path, help="directory of the results (default: runs/eval-TIME)")
    add("--verbose", action="store_true", help="print what vLLM has to say")
    return parser


def _fill_in(args: argparse.Namespace) -> None:
    """Defaults of the protocol, and the checks that need no file."""
    for name, value in (_PAPER if args.protocol else _PLAIN).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.protocol:
        args.input_template = args.input_template or PAPER_TEMPLATE
        args.data = [*paper_specs(args.data_dir), *args.data]
    elif args.data_dir:
        raise UsageError("--data_dir", "is for --protocol paper.", "Use --data.")
    args.data = [_source(source) for source in args.data]
    if not args.data:
        raise UsageError("--data", "is not given.", "Give data sets, or --protocol paper.")
    check_ranges(vars(args), _RANGES)
    if args.input_template and "{}" not in args.input_template:
        raise UsageError("--input_template", f"is {args.input_template!r}.", "Put {} where the problem goes.")
    if args.grader != "auto":
        args.grader = expanded("--grader", args.grader)
        check_reward(args.grader)
    args.model = _model(expanded("MODEL", args.model))
    args.out = args.out or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    if (args.out / "eval.json").exists():
        raise UsageError("--out", f"{args.out} already holds an evaluation.", "Choose another directory.")
    check_writable("--out", args.out)


def _source(text: str) -> str:
    """A data set as it was named, with the home directory in place; a shell leaves the ~ of NAME=~/FILE alone."""
    if not text.strip():
        raise UsageError("--data", "is empty (is a variable of the shell not set?).", "Name a data set.")
    name, equals, source = text.partition("=")
    return f"{name}={expanded('--data', source)}" if equals and source.startswith("~") else expanded("--data", text)


def _model(path: str) -> str:
    """The model's directory; of a run directory the final model's."""
    if not path.strip():
        raise UsageError("MODEL", "is empty.", "Give a Hugging Face model directory.")
    directory = Path(path)
    if (directory / "hf" / "config.json").is_file():
        return str(directory / "hf")
    if directory.is_dir() and not (directory / "config.json").is_file():
        raise UsageError("MODEL", f"{path} holds no model (no config.json).", "Give a Hugging Face model directory.")
    if not directory.exists() and (path.startswith(("/", ".")) or path.count("/") > 1):
        raise UsageError("MODEL", f"{path} does not exist.", "Give a Hugging Face model directory.")
    return path


def _evaluate(args: argparse.Namespace) -> int:
    from openrlhf_sfpo.orchestration.launcher import quiet
    from openrlhf_sfpo.report.console import Console
    from openrlhf_sfpo.report.evaluation import measure, table, write_evaluation
    from openrlhf_sfpo.rollout.sampling import Engine, Sampling, load_tokenizer, sample

    sets = load_problems(args.data, args.input_key, args.label_key, args.limit)
    names = [(name, number) for name, problems in sets.items() for number in range(len(problems))]
    tokenizer = load_tokenizer(args.model)
    prompts = [_prompt(args, tokenizer, sets[name][number]) for name, number in names]
    tokens = [tokenizer.encode(prompt, add_special_tokens=not args.chat) for prompt in prompts]
    args.out.mkdir(parents=True, exist_ok=True)
    with quiet(args.out / "driver.log", args.verbose) as stream:
        console = Console(stream)
        console.say(f"{len(prompts)} prompts in {len(sets)} sets, {args.samples} samples each; starting vLLM")
        try:
            responses = sample(
                args.model,
                tokens,
                Sampling(args.samples, args.temperature, args.top_p, args.max_new_tokens, args.seed),
                Engine(args.dtype, args.tensor_parallel_size, args.gpu_memory_utilization, args.kv_cache_mb),
                stream,
            )
            console.say("grading")
            graded = _grade(args.grader, sets, names, prompts, responses)
        except Exception as error:
            console.say(f"the evaluation failed: {type(error).__name__}: {error}")
            console.plain(f"What the libraries printed is in {args.out / 'driver.log'}.")
            return 1
        numbers = measure(graded)
        write_evaluation(args.out, dict(vars(args)), graded, numbers)
        console.plain(table(numbers).text())
        console.say(f"results in {args.out}")
    return 0


def _prompt(args: argparse.Namespace, tokenizer: Any, problem: Problem) -> str:
    text = args.input_template.format(problem.text) if args.input_template else problem.text
    if args.chat is None:  # the protocol's default: if the model has one
        args.chat = bool(getattr(tokenizer, "chat_template", None))
    if args.chat:
        messages = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _grade(
    grader: str, sets: dict[str, list[Problem]], names: list[Any], prompts: list[str], responses: Any
) -> list[Any]:
    from openrlhf_sfpo.report.evaluation import Graded

    graders = {
        name: load_reward(grader_for(problems) if grader == "auto" else grader) for name, problems in sets.items()
    }
    graded = []
    for (name, number), prompt, drawn in zip(names, prompts, responses, strict=True):
        label = sets[name][number].label
        count = len(drawn)
        result = graders[name]([prompt + one.text for one in drawn], [prompt] * count, [label] * count)
        for one, score in zip(drawn, result.get("scores", result["rewards"]), strict=True):
            graded.append(Graded(name, number, prompt, one.text, label, float(score), one.tokens, one.truncated))
    return graded
