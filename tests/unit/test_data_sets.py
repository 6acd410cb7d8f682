"""Data sets as users have them: file formats, types of labels, checks, and what OpenRLHF gets."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from text_tokenizers import CHAT_TEMPLATE, edit
from tiny_models import make_tokenizer

from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.runs import data_check, run_data
from openrlhf_sfpo.runs.openrlhf_arguments import for_openrlhf
from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.tasks import generated
from openrlhf_sfpo.tasks.data import Fields, Scan, samples_of, scan
from openrlhf_sfpo.tasks.evaluation import Problem, load_problems
from openrlhf_sfpo.tasks.labels import MISSING, field, guessed, json_value, label_problem, label_text, uniform
from openrlhf_sfpo.tasks.rewards import load_reward
from openrlhf_sfpo.tasks.sources import read_hub, sources_of

CHAT = [{"role": "user", "content": "2+2="}]
MATH = Fields("prompt", "label", "math")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("4", "4"),
        (" 007", " 007"),
        (4, "4"),
        (4.0, "4"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (2.50, "2.5"),
        (1e16, "10000000000000000"),
        (1e-7, "0.0000001"),
        (1e300, "1E+300"),
        (2**70, str(2**70)),
        (True, "true"),
        (["4", "four"], "4"),
        ([4.0], "4"),
        ({"dataset": "chain_sum", "entry": {"answer": "4"}}, '{"dataset": "chain_sum", "entry": {"answer": "4"}}'),
    ],
)
def test_labels_of_any_type_are_text_for_built_in_rewards(value: Any, text: str) -> None:
    assert label_text(value) == text
    assert label_problem("math", value) is None


@pytest.mark.parametrize(
    ("reward", "value", "problem"),
    [
        ("math", None, "the label is null"),
        ("math", "", None),  # MATH has such a row
        ("last_integer", "", "has no integer"),
        ("math", [], "the label is an empty list"),
        ("math", [None], "the label is null"),
        ("math", [["4"]], "the label is a list of lists"),
        ("math", {"a": 4}, "the label is an object"),
        ("exact", float("nan"), "the label is nan"),
        ("exact", float("inf"), "the label is inf"),
        ("exact", "\ud83d", "surrogate"),
        ("last_integer", "Paris", "the label 'Paris' has no integer"),
        ("reasoning_gym", "4", "was not made by reasoning_gym:NAME"),
        (None, None, "the label is null"),
        (None, {"a": [4]}, None),
        (None, "", None),
    ],
)
def test_labels_that_a_reward_cannot_use(reward: str | None, value: Any, problem: str | None) -> None:
    found = label_problem(reward, value)
    assert (found is None) == (problem is None)
    assert problem is None or problem in found


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (["4", "5"], ["4", "5"]),
        ([4, 5], [4, 5]),
        ([4, 5.5], [4.0, 5.5]),
        ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ([["4"], ["5", "6"]], [["4"], ["5", "6"]]),
        (["4", 5], ["4", "5"]),
        ([True, 5], ["true", "5"]),
        ([["4"], "5"], ['["4"]', "5"]),
    ],
)
def test_own_rewards_get_labels_as_they_are_if_one_type_holds_them(values: list[Any], kept: list[Any]) -> None:
    assert uniform(values) == kept
    assert [type(value) for value in uniform(values)] == [type(value) for value in kept]


def test_labels_of_tables_are_labels_that_json_can_hold() -> None:
    value = {"a": [Decimal("4.0"), Decimal("0.5"), date(2024, 1, 2), b"x", None, True]}
    assert json_value(value) == {"a": [4, 0.5, "2024-01-02", "b'x'", None, True]}


def test_cells_of_a_csv_file_are_numbers_for_own_rewards_if_all_are() -> None:
    assert guessed(["4", "05"]) == [4, 5]
    assert guessed(["4", "5.5"]) == [4.0, 5.5]
    for texts in (["4", "x"], ["nan", "4"], ["1_000", "4"]):
        assert guessed(texts) == texts


def test_fields_may_be_inside_others() -> None:
    row = {"reward_model": {"ground_truth": "4", "style": None}, "a.b": 1, "a": {"b": 2}, "text": "x"}
    assert field(row, "reward_model.ground_truth") == "4"
    assert field(row, "a.b") == 1
    assert field(row, "reward_model.style") is None
    for key in ("reward_model.truth", "text.x", "none", "reward_model.ground_truth.x"):
        assert field(row, key) is MISSING


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def arrow(path: Path, rows: list[dict[str, Any]], new: Callable[..., Any]) -> Path:
    batch = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, new(file, batch.schema) as writer:
        writer.write_table(batch)
    return path


def saved(path: Path, splits: bool) -> Path:
    import datasets

    rows = datasets.Dataset.from_list([{"prompt": "2+2=", "label": 4}])
    held = {"train": rows, "test": rows} if splits else None
    (datasets.DatasetDict(held) if held else rows).save_to_disk(path)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


ROW = {"prompt": "2+2=", "label": 4}
JSONL = b'{"prompt": "2+2=", "label": "4"}\n'
KINDS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda d: lines(d / "a.jsonl", [ROW]),
    "jsonl with a byte-order mark": lambda d: written(d / "a.jsonl", b"\xef\xbb\xbf" + JSONL),
    "jsonl with Windows line ends": lambda d: written(d / "a.jsonl", JSONL.replace(b"\n", b"\r\n")),
    "jsonl without a last line end": lambda d: written(d / "a.jsonl", JSONL.strip()),
    "an upper-case suffix": lambda d: written(d / "DATA.JSONL", JSONL),
    "gzip": lambda d: written(d / "a.jsonl.gz", gzip.compress(JSONL)),
    "json": lambda d: written(d / "a.json", b"\n" + json.dumps([ROW], indent=1).encode()),
    "json lines in .json": lambda d: written(d / "a.json", JSONL),
    "csv": lambda d: written(d / "a.csv", b"prompt,label\n2+2=,4\n"),
    "csv from Excel": lambda d: written(d / "a.csv", b'\xef\xbb\xbfprompt,label\r\n"2+2=",4\r\n'),
    "csv with decimals": lambda d: written(d / "a.csv", b"prompt,label,x\n2+2=,4,\n"),
    "tsv": lambda d: written(d / "a.tsv", b"prompt\tlabel\n2+2=\t4\n"),
    "parquet": lambda d: table(d / "a.parquet", [ROW]),
    "parquet with floats": lambda d: table(d / "a.parquet", [{**ROW, "label": 4.0}]),
    "parquet with lists": lambda d: table(d / "a.parquet", [{**ROW, "label": ["4"]}]),
    "arrow stream": lambda d: arrow(d / "a.arrow", [ROW], pa.ipc.new_stream),
    "arrow file": lambda d: arrow(d / "a.arrow", [ROW], pa.ipc.new_file),
    "save_to_disk": lambda d: saved(d / "a", splits=False),
    "save_to_disk with splits": lambda d: saved(d / "a", splits=True),
    "a directory of files": lambda d: lines(d / "train.jsonl", [ROW]).parent,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_training_and_evaluation_read_every_kind_alike(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "data").mkdir()
    path = str(make(tmp_path / "data"))
    (sample,) = samples_of(sources_of("--d", path)[0], MATH)
    assert (sample.prompt, sample.label) == ("2+2=", "4")
    (problems,) = load_problems([path]).values()
    assert problems == [Problem("2+2=", "4")]
    assert load_reward("exact")(["2+2=4"], ["2+2="], [sample.label])["rewards"] == [1.0]


def test_rows_as_verl_writes_them(tmp_path: Path) -> None:
    row = {"prompt": CHAT, "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 0}}
    for path in (lines(tmp_path / "a.jsonl", [row]), table(tmp_path / "a.parquet", [row])):
        fields = Fields("prompt", "reward_model.ground_truth", "math", chat=True)
        (sample,) = samples_of(sources_of("--d", str(path))[0], fields)
        assert (sample.prompt, sample.label) == (CHAT, "4")
        assert load_problems([str(path)]) == {"a": [Problem(CHAT, "4")]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"prompt": "a", "label": "b"}\n{"prompt": \n', "line 2 is not JSON (Expecting value, column 11)."),
        (
            "a.jsonl",
            '{"prompt": "a"\n',
            "line 1 is not JSON (Expecting ',' delimiter, column 15). Fix or remove the line.",
        ),
        (
            "a.jsonl",
            '{\n  "prompt": "a"\n}\n',
            "line 1 is not JSON (Expecting property name enclosed in double quotes, col",
        ),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", '["prompt"]\n', "line 1 is not a JSON object"),
        ("a.jsonl", '{"prompt": "a", "label": "b"}\n\n{"prompt": "a"}\n', "line 3 has no 'label' (it has 'prompt')"),
        ("a.jsonl", '{"prompt": "a", "label": "b"}\n{"prompt": "a", "label": null}\n', "line 2: the label is null"),
        ("a.jsonl", '{"prompt": "a", "label": NaN}\n', "line 1: the label is nan"),
        ("a.jsonl", '{"prompt": 12, "label": "b"}\n', "line 1: the prompt is a number"),
        ("a.jsonl", '{"question": "a", "label": "b"}\n', "line 1 has no 'prompt'"),
        ("a.json", "[1, 2]", "row 1 is not a JSON object"),
        ("a.json", '[{"prompt": "a"', "line 1 is not JSON (Expecting ',' delimiter, column 16)."),
        ("a.json", '[{"prompt": "a"},\n{"prompt"}]', "line 2 is not JSON (Expecting ':' delimiter, column 10)."),
        ("a.csv", "prompt,label\n2+2=,4\n3+3=,\n", "line 3: the label is null"),
        ("a.csv", "prompt,label\n1, 2 and 3,6\n", "line 2 has 3 cells, and the header 2"),
        ("a.csv", 'prompt,label\n"a\nb",6\nc\n', "line 4 has 1 cells"),
        ("a.csv", "prompt,prompt\na,b\n", "names a column twice"),
        ("a.csv", "prompt,label\n", "is empty"),
        ("a.csv", "prompt;label\na;b\n", "has one column in its header, 'prompt;label', with ';' in it; ',' separates"),
        ("a.csv", "prompt\tlabel\na\tb\n", "has one column in its header, 'prompt\\tlabel', with '\\t' in it; ',' sep"),
        (
            "a.tsv",
            "prompt,label\na,b\n",
            "has one column in its header, 'prompt,label', with ',' in it; '\\t' separates",
        ),
        ("a.csv", f'prompt,label\n"{CHAT}",4\n', "line 2: the prompt is a chat written as text"),
        ("a.parquet", "no parquet", "is not a parquet file"),
        ("a.arrow", "no arrow", "is not an Arrow file"),
        ("a.jsonl.gz", "no gzip", "is not a complete gzip file"),
    ],
)
def test_data_is_checked_to_the_last_row(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        scan(sources_of("--data.prompt_dataset", str(path))[0], MATH)
    assert f"{path}, {message}" in str(caught.value) or f"{path} {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("a.jsonl", '{\n  "prompt": "a"\n}\n', "Write each object on one line."),
        ("a.jsonl", '[\n{"prompt": "a"}\n]\n', "Write each object on one line."),
        ("a.csv", "prompt\tlabel\na\tb\n", "Rename the file, so that its name ends with .tsv."),
        ("a.tsv", "prompt,label\na,b\n", "Rename the file, so that its name ends with .csv."),
    ],
)
def test_what_to_do_about_data(tmp_path: Path, name: str, content: str, fix: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        scan(sources_of("--d", str(path))[0], MATH)
    assert caught.value.fix == fix


@pytest.mark.parametrize("separator", [";", "|"])
def test_the_command_that_converts_a_table(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt{separator}label\n1, 2 and 3{separator}007\n")
    with pytest.raises(UsageError) as caught:
        scan(sources_of("--d", str(path))[0], MATH)
    (command,) = re.findall(r"^Convert it: (.*)$", caught.value.fix)
    path_of_python = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=path_of_python)
    assert scan(sources_of("--d", str(tmp_path / "new.csv"))[0], MATH).samples[0].label == "007"


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    for content in (b'{"prompt": "caf\xe9", "label": "b"}\n', "\ufeff{}".encode("utf-16-le")):
        path = written(tmp_path / "a.jsonl", content)
        with pytest.raises(UsageError, match="is not UTF-8 text"):
            scan(sources_of("--d", str(path))[0], MATH)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("{d}/a.txt", UsageError, "is not a kind of file that is read"),
        ("{d}/script.py", UsageError, "is not a kind of file that is read"),
        ("{d}/a.jsonl,", UsageError, "empty data set"),
        ("{d}/none.jsonl", NotThere, "does not exist"),
        ("data/none.csv", NotThere, "does not exist"),
        ("NONE.TSV", NotThere, "does not exist"),
        ("/nowhere/data", NotThere, "does not exist"),
        ("a/b/c", NotThere, "does not exist"),
    ],
)
def test_missing_data_sets(tmp_path: Path, spec: str, kind: type, message: str) -> None:
    for name in ("a.txt", "a.jsonl", "script.py"):
        written(tmp_path / name, JSONL)
    with pytest.raises(kind, match=message):
        sources_of("--data.prompt_dataset", spec.replace("{d}", str(tmp_path)))


@pytest.mark.parametrize("name", ["gsm8k", "openai/gsm8k", "openai/gsm8k@main"])
def test_names_on_the_hub(name: str) -> None:
    (source,) = sources_of("--d", name)
    assert (source.kind, source.place) == ("hub", name.partition("@")[0])


def test_data_sets_that_are_downloaded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory stands in for a name on the Hub, which is loaded in the same way."""
    import datasets

    directory = tmp_path_factory.mktemp("hub")  # a path that names no split
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        lines(directory / f"{split}.jsonl", [{**ROW, "split": split}])
    for split in ("train", "test"):
        for split_only in (False, True):
            (row,) = read_hub("--d", str(directory), None, split, split_only)
            assert row == ("row 1", {**ROW, "split": split})
    with pytest.raises(UsageError, match=r"has no split 'dev'\. It has train, test"):
        list(read_hub("--d", str(directory), None, "dev"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot be loaded from the Hugging Face hub") as caught:
        list(read_hub("--d", "someone/unknown", None, "train"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain_summ", "no data set 'chain_summ'. Did you mean chain_sum"),
        ("chain_sum?sizee=3", "chain_sum has no option 'sizee'. Did you mean size?"),
        ("chain_sum?size", "has the option 'size' without a value"),
        ("chain_sum?size=", "has the option 'size=' without a value"),
        ("chain_sum?=3", "without a value"),
        ("chain_sum?min_terms=9&max_terms=2", "does not take min_terms=9, max_terms=2 ("),
        ("chain_sum?size=abc", "does not take size=abc ("),
    ],
)
def test_generated_sets_that_are_misspelt(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        generated.generate("--d", f"reasoning_gym:{spec}", "prompt", "label", first=2)
    assert message in str(caught.value)


def test_a_metadata_field_can_be_the_prompt() -> None:
    for row in generated.generate("--d", "reasoning_gym:chain_sum?size=3&seed=1", "expression", "label"):
        entry = json.loads(row["label"])["entry"]
        assert row["expression"] == entry["metadata"]["expression"]
        assert row["expression"] in entry["question"]
    (row,) = generated.generate("--d", "reasoning_gym:chain_sum?size=1&seed=1", "num_terms", "label")
    assert row["num_terms"] == json.loads(row["label"])["entry"]["question"], "metadata that is not text"


def test_a_scan_counts_repetitions_and_looks_at_evenly_spaced_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n % 50}", "label": n // 98} for n in range(100)]
    found = scan(sources_of("--d", str(lines(tmp_path / "a.jsonl", rows)))[0], MATH)
    assert (found.rows, found.repeated, found.contradicted) == (100, 50, 2)
    many = Scan()
    (sample,) = samples_of(sources_of("--d", str(lines(tmp_path / "b.jsonl", [ROW])))[0], MATH)
    for _ in range(20_000):
        many.add(sample, keep_label=False)
    assert 2000 <= len(many.samples) <= 4000
    assert many.rows == 20_000


@pytest.fixture
def flags(tmp_path: Path) -> Callable[..., Any]:
    """Makes the flags of a run whose model directory has a tokenizer and nothing else."""
    make_tokenizer(tmp_path / "model", words="<>", start="<s>", chat_template=CHAT_TEMPLATE)
    (tmp_path / "model" / "config.json").write_text('{"vocab_size": 131}')

    def make(data: Any, **changes: Any) -> Any:
        settings = {
            "actor.model_name_or_path": tmp_path / "model",
            "run.dir": tmp_path / "run",
            "data.prompt_dataset": data,
            "data.input_key": "prompt",
            "data.label_key": "label",
            "reward.remote_url": "math",
            "vllm.num_engines": 1,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        given = [(f"--{name}", value) for name, value in settings.items() if value is not None]
        return parse([word if v is True else f"{word}={v}" for word, v in given])[0]

    return make


def openrlhfs_view(flat: Any) -> tuple[list[str], list[Any], list[str]]:
    """Prompts, labels and data sources as OpenRLHF's own loader and data set return them after `prepare`."""
    from openrlhf.datasets import PromptDataset
    from openrlhf.datasets.utils import blending_datasets

    run_data.prepare(nested(flat), Path(vars(flat)["run.dir"]) / "data")
    args = nested(for_openrlhf(flat))
    strategy = SimpleNamespace(args=args, print=lambda *a: None, is_rank_0=lambda: False)
    rows = blending_datasets(args.data.prompt_dataset, args.data.prompt_probs, strategy, dataset_split="train")
    tokenizer = data_check.tokenizer_of(nested(flat))
    loaded = PromptDataset(rows, tokenizer, strategy, input_template=args.data.input_template)
    return loaded.prompts, loaded.labels, loaded.datasources


def test_openrlhf_gets_rendered_prompts_and_text_labels(tmp_path: Path, flags: Callable[..., Any]) -> None:
    """Even from files whose labels its own loader would read as other types, or not together."""
    rows = [{**ROW, "label": "2024-01-01", "datasource": "dates"}, {**ROW, "label": 4}]
    files = [
        lines(tmp_path / "a.jsonl", rows),
        written(tmp_path / "b.csv", b"prompt,label\n3+3=,06\n"),
        table(tmp_path / "c.parquet", [{"prompt": "1+1=", "label": 2.0, "more": [1]}]),
    ]
    flat = flags(",".join(map(str, files)), data__input_template=r"Q: {} Put it in \boxed{}.")
    prompts, labels, datasources = openrlhfs_view(flat)
    assert prompts == [rf"<s>Q: {sum_} Put it in \boxed{{}}." for sum_ in ("2+2=", "2+2=", "3+3=", "1+1=")]
    assert labels == ["2024-01-01", "4", "06", "2"]
    assert datasources == ["dates", "default", "default", "default"]
    assert run_data.prepared_rows(tmp_path / "run") == 4
    assert vars(flat)["data.prompt_dataset"] == ",".join(map(str, files)), "the flags stay as they were given"


@pytest.mark.parametrize(
    ("template", "prompt", "rendered"),
    [
        (None, CHAT, "<user>2+2=\n<assistant>"),
        (None, "2+2=", "<user>2+2=\n<assistant>"),
        ("Q: {}", "2+2=", "<user>Q: 2+2=\n<assistant>"),
    ],
)
def test_openrlhf_gets_chats_as_text(
    tmp_path: Path, flags: Callable[..., Any], template: str | None, prompt: Any, rendered: str
) -> None:
    data = lines(tmp_path / "a.jsonl", [{"prompt": prompt, "label": "4"}, {"prompt": "1+1=", "label": "2"}])
    flat = flags(data, data__apply_chat_template=True, data__input_template=template)
    assert openrlhfs_view(flat)[0][0] == rendered


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        ({"a.jsonl": '{"prompt": "p", "label": 4}'}, [4]),
        ({"a.csv": "prompt,label\np,4\n"}, [4]),
        ({"a.jsonl": '{"prompt": "p", "label": {"tests": ["x"]}}'}, [{"tests": ["x"]}]),
        ({"a.jsonl": '{"prompt": "p", "label": "4"}', "b.jsonl": '{"prompt": "p", "label": 5}'}, ["4", "5"]),
        ({"a.jsonl": '{"prompt": "p", "label": [1, "x"]}'}, ['[1, "x"]']),
    ],
)
def test_own_rewards_and_graders_get_the_same_labels(
    tmp_path: Path, flags: Callable[..., Any], files: dict[str, str], labels: list[Any]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    spec = ",".join(str(tmp_path / name) for name in files)
    flat = flags(spec, reward__remote_url="http://localhost:1/score")
    found = openrlhfs_view(flat)[1]
    assert checked(flat).first()[1] == labels[0], "what the reward is tried on"
    assert found == labels
    assert [type(one) for one in found] == [type(one) for one in labels]
    if len(files) == 1:
        (problems,) = load_problems([spec], grader="mine.py").values()
        assert [problem.label for problem in problems] == labels


def test_generated_evaluation_problems_are_not_training_problems(tmp_path: Path, flags: Callable[..., Any]) -> None:
    sums = "reasoning_gym:chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1&size=60"
    flat = flags(f"{sums}&seed=1", eval__dataset=f"{sums}&seed=1000", data__label_key=None, reward__remote_url="exact")
    trained, labels, datasources = openrlhfs_view(flat)
    held_out = pq.read_table(tmp_path / "run" / "data" / "eval.dataset_0.parquet").to_pylist()
    prompts = [row["prompt"] for row in held_out]
    assert 0 < len(prompts) < 60
    assert len(set(prompts)) == len(prompts)
    assert not set(trained) & set(prompts)
    assert f"<s>{json.loads(labels[0])['entry']['question']}" == trained[0]
    assert set(datasources) == {row["datasource"] for row in held_out} == {"chain_sum"}
    same = flags(f"{sums}&seed=1", eval__dataset=f"{sums}&seed=1", data__label_key=None)
    with pytest.raises(UsageError, match="has no problem that is not among the training prompts"):
        run_data.prepare(nested(same), tmp_path / "run" / "data")


def test_data_with_images_is_left_to_openrlhf(tmp_path: Path, flags: Callable[..., Any]) -> None:
    data = lines(tmp_path / "a.jsonl", [{**ROW, "images": ["a.png"]}])
    changes = {"data__max_images_per_prompt": 1, "data__input_template": r"{} in \boxed{}"}
    flat = flags(data, eval__dataset="reasoning_gym:chain_sum?size=3&seed=1", **changes)
    run_data.prepare(nested(flat), tmp_path / "run" / "data")
    values = vars(for_openrlhf(flat))
    assert values["data.prompt_dataset"] == str(data)
    assert values["data.input_template"].format("2+2=") == r"2+2= in \boxed{}"
    assert len(Path(values["eval.dataset"]).read_text().splitlines()) == 3
    both = flags(data, data__apply_chat_template=True, **changes)
    with pytest.raises(UsageError, match="OpenRLHF takes one of them"):
        checked(both)


@pytest.mark.parametrize(("options", "again"), [("size=9", True), ("size=9&seed=1", True), ("size=8", False)])
def test_a_continued_run_has_the_same_problems(
    tmp_path: Path, flags: Callable[..., Any], options: str, again: bool
) -> None:
    """Even if they were generated without a seed."""
    first = openrlhfs_view(flags(f"reasoning_gym:chain_sum?{options}", data__label_key=None))
    changed = options if again else "size=9"
    second = openrlhfs_view(flags(f"reasoning_gym:chain_sum?{changed}", data__label_key=None))
    assert (first == second) == again


def checked(flat: Any, ahead: bool = True) -> data_check.DataCheck:
    args = nested(flat)
    check = data_check.DataCheck(args, ahead)
    check.flags()
    check.rows(data_check.PROMPTS, args.data.prompt_dataset)
    check.rows(data_check.EVAL, args.eval.dataset)
    check.tokenizer()
    return check


@pytest.mark.parametrize(
    ("row", "changes", "flag", "message"),
    [
        (ROW, {"data__input_template": "Solve:"}, "--data.input_template", "no placeholder for the prompt"),
        ({**ROW, "prompt": CHAT}, {}, "--data.apply_chat_template", "line 1: the prompt is a chat"),
        ({**ROW, "prompt": CHAT}, {"data__input_template": "Q: {}"}, "--data.apply_chat_template", "the prompt is a"),
        (
            {**ROW, "prompt": CHAT},
            {"data__input_template": "Q: {}", "data__apply_chat_template": True},
            "--data.input_template",
            "goes around text",
        ),
        (ROW, {"data__label_key": None}, "--data.label_key", "the reward math grades by labels"),
        (ROW, {"run__dir": "/tmp/me@home/run"}, "--run.dir", "'@' in its path"),
        (ROW, {"eval__dataset": "none.jsonl"}, "--eval.dataset", "does not exist"),
        (ROW, {"eval__dataset": "openai/gsm8k"}, "--eval.dataset", "will be downloaded"),
        (ROW, {"data__prompt_dataset": "reasoning_gym:chain_summ"}, "--data.prompt_dataset", "no data set"),
        ({**ROW, "label": "x"}, {"reward__remote_url": "last_integer"}, "--data.prompt_dataset", "has no integer"),
        ({**ROW, "label": None}, {"reward__remote_url": "http://h/score"}, "--data.prompt_dataset", "is null"),
    ],
)
def test_runs_that_are_refused_for_their_data(
    tmp_path: Path, flags: Callable[..., Any], row: dict[str, Any], changes: dict[str, Any], flag: str, message: str
) -> None:
    data = lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(UsageError, match=message) as caught:
        checked(flags(**{"data": data, **changes}))
    assert caught.value.flag == flag


def test_a_chat_that_its_template_refuses_is_named(tmp_path: Path, flags: Callable[..., Any]) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}x"
    edit(tmp_path / "model" / "tokenizer_config.json", chat_template=template)
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    rows = [{**ROW, "prompt": CHAT}, {**ROW, "prompt": [{"role": "system", "content": "s"}, *CHAT]}]
    flat = flags(lines(tmp_path / "a.jsonl", rows), data__apply_chat_template=True)
    with pytest.raises(UsageError, match=r"line 2: the model's chat template refuses it \(no system prompt\)"):
        checked(flat)


def test_the_dry_run_shows_a_prompt_and_says_what_to_know(tmp_path: Path, flags: Callable[..., Any]) -> None:
    rows = [
        {"prompt": "2+2=", "label": "4"},
        {"prompt": "2+2=", "label": "5"},
        {"prompt": "1" * 100, "label": ["1", "one"]},
        {"prompt": "3+3=", "label": "??"},
        {"prompt": "4+4=", "label": ""},
        {"prompt": "два 1", "label": "2"},
        {"prompt": "5+5=", "label": "see figure"},
    ]
    data = lines(tmp_path / "a.jsonl", rows)
    flat = flags(data, data__input_template=r"Q:\n{}", data__max_len=64, rollout__max_new_tokens=32)
    check = checked(flat)
    assert check.example() == (
        'A prompt as the model gets it (a.jsonl, line 1: 9 tokens, begins with <s>, label "4"):\n'
        r'  "<s>Q:\\n2+2="'
    )
    warnings = "\n".join(check.warnings())
    for expected in (
        "backslash and an n where a line break may be meant",
        "1 of 7 rows have the prompt of an earlier row",
        "1 prompt with different labels",
        "1 label without text",
        "1 label with several answers in a list",
        "1 of 7 prompts looked at with more than the 32 tokens",
        "1 of 7 prompts looked at with characters that the tokenizer has no tokens for",
        "1 of 2 labels looked at that the reward math cannot read as mathematics (first line 4: ",
        "1 of 2 labels looked at that are words (first line 7: 'see figure')",
        "loses its beginning",
    ):
        assert expected in warnings
