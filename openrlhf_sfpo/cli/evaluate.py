"""`openrlhf-sfpo eval`: sample answers with vLLM, grade them, and report accuracies with intervals."""

import argparse
import json
import sys
import traceback
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.cli.parser import Parser
from openrlhf_sfpo.config.ranges import at_least, between, check_ranges, share
from openrlhf_sfpo.config.values import as_path, expanded
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import absence, check_writable
from openrlhf_sfpo.system.home import prepare_command
from openrlhf_sfpo.tasks.evaluation import PAPER_TEMPLATE, Problem, load_problems, paper_specs
from openrlhf_sfpo.tasks.prompts import PromptFormat, Template, encode
from openrlhf_sfpo.tasks.rewards import BUILTIN
from openrlhf_sfpo.tasks.tokenizers import check_chat_template, check_model_code, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from openrlhf_sfpo.report.console import Console

# The settings of --protocol paper: the SFPO authors' evaluation.
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
    prepare_command()
    args = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        if args.regrade is not None:
            return _regrade(args)
        _fill_in(args)
        return _evaluate(args)
    except UsageError as error:
        print(f"openrlhf-sfpo eval: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="openrlhf-sfpo eval",
        description="Measure a model's accuracy: avg@k and pass@k of each data set with intervals, response length and "
        "truncation. Writes eval.json, eval.md, eval.png and samples.jsonl, with every graded response.",
    )
    add = parser.add_argument
    add(
        "model", metavar="MODEL", nargs="?", help="Hugging Face directory or name, or a run directory (its final model)"
    )
    add(
        "--data",
        nargs="+",
        default=[],
        metavar="[NAME=]SOURCE",
        help="a .jsonl, .json, .csv, .tsv, .parquet or .arrow file, a directory (of save_to_disk), "
        "reasoning_gym:NAME?option=value&..., or a Hugging Face NAME@SPLIT",
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
    add("--limit", type=int, help="take this many problems of each set, from its start")
    add("--grader", help=f"{', '.join(BUILTIN)}, FILE.py:FUNCTION, or auto: the generator's scorer, else math")
    add("--input_key", help="field of the problem (default: prompt, problem, question or input)")
    add("--label_key", help="field of the answer (default: label, answer, final_answer or reference_answer)")
    add("--input_template", help="prompt around the problem, which is put in place of {}")
    add("--chat", action=argparse.BooleanOptionalAction, help="apply the model's chat template (default: no)")
    add("--trust_remote_code", action="store_true", help="run the code that comes with a model directory")
    add("--dtype", default="auto", choices=["auto", "bfloat16", "float32", "float16"], help="(default: %(default)s)")
    add("--tensor_parallel_size", type=int, default=1, help="GPUs of the engine (default: %(default)s)")
    add("--gpu_memory_utilization", type=float, default=0.9, help="(default: %(default)s)")
    add("--kv_cache_mb", type=int, default=1024, help="key/value cache where there is no GPU (default: %(default)s)")
    add("--out", type=as_path, help="directory of the results (default: runs/eval-TIME)")
    add(
        "--regrade",
        type=as_path,
        metavar="DIR",
        help="sample nothing: grade the responses of an evaluation again, from its samples.jsonl, with --grader; the "
        "results go to --out, or to DIR itself if it has none yet",
    )
    add("--verbose", action="store_true", help="print vLLM's output")
    return parser


def _fill_in(args: argparse.Namespace) -> None:
    """Fill in the protocol's defaults, and check the arguments."""
    from openrlhf_sfpo.cli.grading import check_grader

    for name, value in (_PAPER if args.protocol else _PLAIN).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.protocol:
        args.input_template = args.input_template or PAPER_TEMPLATE
        args.data = [*paper_specs(args.data_dir), *args.data]
    elif args.data_dir:
        raise UsageError("--data_dir", "is for --protocol paper.", "Use --data.")
    if args.model is None:
        raise UsageError("MODEL", "is not given.", "Give a Hugging Face model directory or name, or a run directory.")
    args.data = [_source(source) for source in args.data]
    if not args.data:
        raise UsageError("--data", "is not given.", "Give data sets, or --protocol paper.")
    check_ranges(vars(args), _RANGES)
    if args.input_template is not None:
        Template.parse("--input_template", args.input_template)
    args.grader = expanded("--grader", args.grader)
    check_grader(args.grader)
    args.model = _model(expanded("MODEL", args.model))
    _check_out(args)


def _check_out(args: argparse.Namespace) -> None:
    args.out = args.out or Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    if (args.out / "eval.json").exists():
        raise UsageError("--out", f"{args.out} already holds an evaluation.", "Choose another directory.")
    if (args.out / "samples.jsonl").exists() and args.regrade != args.out:
        fix = f"Grade them with --regrade {args.out}, or choose another directory."
        raise UsageError("--out", f"{args.out} already holds responses.", fix)
    check_writable("--out", args.out)


def _source(text: str) -> str:
    """A data set's name with the home directory expanded; a shell does not expand the ~ in NAME=~/FILE."""
    if not text.strip():
        raise UsageError("--data", "is empty (is a variable of the shell not set?).", "Name a data set.")
    name, equals, source = text.partition("=")
    return f"{name}={expanded('--data', source)}" if equals and source.startswith("~") else expanded("--data", text)


def _model(path: str) -> str:
    """The model's directory; for a run directory, the final model's."""
    if not path.strip():
        raise UsageError("MODEL", "is empty.", "Give a Hugging Face model directory.")
    directory = Path(path)
    if (directory / "hf" / "config.json").is_file():
        directory = directory / "hf"
    if directory.is_dir():
        _check_directory(directory)
    if (directory / "config.json").is_file():
        return str(directory)
    if directory.is_dir():
        raise UsageError("MODEL", f"{path} holds no model (no config.json).", "Give a Hugging Face model directory.")
    if not directory.exists() and (path.startswith(("/", ".")) or path.count("/") > 1):
        raise UsageError("MODEL", f"{path} {absence(path)}.", "Give a Hugging Face model directory.")
    return path


def _check_directory(directory: Path) -> None:
    """Check that a directory is a model, and that its weights fit config.json before vLLM loads them."""
    from openrlhf_sfpo.checkpoints.model_directory import check_model_directory
    from openrlhf_sfpo.megatron.model.config import ModelConfig

    try:
        check_model_directory(directory, needs_weights=False)
        if not list(directory.glob("model*.safetensors*")):
            return
        from openrlhf_sfpo.megatron.weights.check import check_weights

        try:
            model = ModelConfig.from_pretrained(directory)
        except UsageError:  # an architecture that only vLLM supports, and checks itself
            return
        check_weights(directory, model)
    except UsageError as error:
        raise UsageError("MODEL", error.problem, error.fix) from None


def _evaluate(args: argparse.Namespace) -> int:
    from openrlhf_sfpo.cli.grading import load_graders
    from openrlhf_sfpo.cluster.worker_logs import tail, why_engine_failed
    from openrlhf_sfpo.report.console import Console
    from openrlhf_sfpo.report.evaluation import Graded
    from openrlhf_sfpo.rollout.sampling import Engine, Sampling, sample
    from openrlhf_sfpo.system.streams import quiet

    sets = load_problems(args.data, args.input_key, args.label_key, args.limit, args.grader)
    names = [(name, number) for name, problems in sets.items() for number in range(len(problems))]
    check_model_code("MODEL", args.model, "--trust_remote_code", args.trust_remote_code)
    tokenizer = load_tokenizer("MODEL", args.model, args.trust_remote_code)
    prompt_format = _prompt_format(args, tokenizer)
    prompts = [_prompt(prompt_format, name, sets[name][number]) for name, number in names]
    tokens = [encode(tokenizer, prompt) for prompt in prompts]
    _check_engine(args, max(map(len, tokens)))
    first = {name: prompt for (name, number), prompt in zip(names, prompts, strict=True) if number == 0}
    graders = load_graders(args.grader, sets, first)
    args.out.mkdir(parents=True, exist_ok=True)
    with quiet(args.out / "driver.log", args.verbose) as stream:
        console = Console(stream)
        console.say(f"{len(prompts)} prompts in {len(sets)} sets, {args.samples} samples each; starting vLLM")
        try:
            responses = sample(
                args.model,
                tokens,
                Sampling(args.samples, args.temperature, args.top_p, args.max_new_tokens, args.seed),
                Engine(
                    args.dtype,
                    args.tensor_parallel_size,
                    args.gpu_memory_utilization,
                    args.kv_cache_mb,
                    args.trust_remote_code,
                ),
                stream,
            )
        except Exception as error:
            console.say(f"sampling failed: {why_engine_failed(error, [tail(args.out / 'driver.log')])}")
            console.plain(f"What the libraries printed is in {args.out / 'driver.log'}.")
            return 1
        sampled = [
            Graded(
                name, number, prompt, one.text, sets[name][number].label, None, one.tokens, one.truncated, one.ending
            )
            for (name, number), prompt, drawn in zip(names, prompts, responses, strict=True)
            for one in drawn
        ]
        return _finish(args, graders, sampled, dict(vars(args)), console)


def _check_engine(args: argparse.Namespace, longest_prompt: int) -> None:
    """Refuse settings that vLLM would refuse only after it has started."""
    from openrlhf_sfpo.rollout.engine_limits import EngineModel, check_engine

    model = EngineModel.of_any_architecture(args.model)
    needed = longest_prompt + args.max_new_tokens
    if model.longest is not None and needed > model.longest:
        left = model.longest - longest_prompt
        raise UsageError(
            "--max_new_tokens",
            f"is {args.max_new_tokens}, which is {needed} tokens with the longest prompt ({longest_prompt}), but the "
            f"model is made for {model.longest} ({model.longest_setting} in config.json).",
            f"Use {left} or less." if left > 0 else "Leave out the longest problems, or use another model.",
        )
    try:
        check_engine(model, needed, args.tensor_parallel_size, on_cpu=False)
    except UsageError as error:
        raise UsageError("--tensor_parallel_size", error.problem, error.fix) from None


def _regrade(args: argparse.Namespace) -> int:
    """Grade the responses of an earlier evaluation."""
    from openrlhf_sfpo.cli.grading import check_grader, load_graders
    from openrlhf_sfpo.report.console import Console
    from openrlhf_sfpo.report.evaluation import read_samples
    from openrlhf_sfpo.system.streams import quiet

    if args.model is not None or args.data or args.protocol:
        raise UsageError("--regrade", "takes no MODEL, --data or --protocol: it samples nothing.", "Drop them.")
    args.grader = args.grader or "auto"
    check_grader(args.grader)
    try:
        sampled = read_samples(args.regrade)
    except (OSError, ValueError, TypeError) as error:
        problem = f"{args.regrade} has no samples.jsonl of an evaluation ({error})."
        raise UsageError("--regrade", problem, "Give the --out directory of one.") from None
    if args.out is None and not (args.regrade / "eval.json").exists():
        args.out = args.regrade
    _check_out(args)
    sets: dict[str, list[Problem]] = {}
    first: dict[str, str] = {}
    for one in sampled:
        sets.setdefault(one.set_name, []).append(Problem(one.prompt, one.label))
        first.setdefault(one.set_name, one.prompt)
    graders = load_graders(args.grader, sets, first)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = _settings(args.regrade) | {"grader": args.grader, "regrade": str(args.regrade)}
    with quiet(args.out / "driver.log", args.verbose) as stream:
        return _finish(args, graders, sampled, settings, Console(stream))


def _settings(directory: Path) -> dict[str, Any]:
    """The settings with which the responses in a directory were sampled."""
    for name, key in (("eval.json", "settings"), ("settings.json", None)):
        if (directory / name).is_file():
            content = json.loads((directory / name).read_text(encoding="utf-8"))
            return content[key] if key else content
    return {}


def _finish(
    args: argparse.Namespace, graders: dict[str, Any], sampled: list[Any], settings: dict[str, Any], console: "Console"
) -> int:
    """Save the responses, grade them, and write the results."""
    from openrlhf_sfpo.cli.grading import grade
    from openrlhf_sfpo.report.evaluation import measure, table, write_evaluation, write_samples

    if args.regrade != args.out:
        write_samples(args.out, sampled)
        (args.out / "settings.json").write_text(json.dumps(settings, indent=1, default=str) + "\n", encoding="utf-8")
    console.say(f"grading {len(sampled)} responses")
    try:
        grades = grade(graders, sampled)
    except Exception as error:
        traceback.print_exc()  # to driver.log
        console.say(f"grading failed: {type(error).__name__}: {error}")
        again = f"openrlhf-sfpo eval --regrade {args.out} --grader {args.grader}"
        console.plain(f"The responses are in {args.out / 'samples.jsonl'}. To grade them: {again}")
        return 1
    numbers = measure(grades.graded) | {"grading_timeouts": grades.timeouts}
    write_evaluation(args.out, settings, grades.graded, numbers)
    (args.out / "settings.json").unlink(missing_ok=True)  # eval.json has them
    console.plain(table(numbers).text())
    console.say(f"results in {args.out}")
    return 0


def _prompt_format(args: argparse.Namespace, tokenizer: "PreTrainedTokenizerBase") -> PromptFormat:
    """The conversion of problems to prompts, as in training."""
    if args.chat is None:  # the protocol's default: yes if the model has a template
        args.chat = bool(getattr(tokenizer, "chat_template", None))
    if args.chat:
        check_chat_template("MODEL", tokenizer, args.model, "--chat")
    template = Template.parse("--input_template", args.input_template) if args.input_template is not None else None
    return PromptFormat(template, args.chat, tokenizer)


def _prompt(prompt_format: PromptFormat, name: str, problem: Problem) -> str:
    if not isinstance(problem.text, str):
        if not prompt_format.chat:
            raise UsageError("--chat", f"is not given, and {name} holds chats (lists of messages).", "Give --chat.")
        if prompt_format.template:
            raise UsageError(
                "--input_template",
                f"goes around text, and {name} holds chats (lists of messages).",
                "Drop it, or give the problems as text.",
            )
    try:
        return prompt_format.render(problem.text)
    except Exception as error:  # chat templates may raise anything
        raise UsageError(
            "--data", f"{name} has a chat that the model's template refuses ({error}).", "Fix it."
        ) from None
