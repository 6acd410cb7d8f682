"""Templates, chats and tokenizers: what the model is given, in training, in the dry run and in evaluations."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from text_tokenizers import CHAT_TEMPLATE, edit
from tiny_models import make_tokenizer

from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.tasks import tokenizers
from openrlhf_sfpo.tasks.evaluation import PAPER_TEMPLATE, Problem
from openrlhf_sfpo.tasks.prompts import PromptFormat, Template, encode, prompt_problem


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Q: {}\nA:", "Q: 1+1\nA:"),
        (r"Q: {} Put it in \boxed{}.", r"Q: 1+1 Put it in \boxed{}."),
        (r"Put it in \boxed{}. Q: {}", r"Put it in \boxed{}. Q: 1+1"),
        (r"Q: {} Put it in \boxed{{}}.", r"Q: 1+1 Put it in \boxed{}."),
        (r"Q: {prompt} Put it in \boxed{}.", r"Q: 1+1 Put it in \boxed{}."),
        (r"Q: {input} Put it in \boxed{{}}.", r"Q: 1+1 Put it in \boxed{}."),
        (r"{} \boxed {} or \fbox{}", r"1+1 \boxed {} or \fbox{}"),
        (r"{} e.g. \boxed{42} or $\frac{1}{2}$", r"1+1 e.g. \boxed{42} or $\frac{1}{2}$"),
        (r"{} as \frac{}{} or \sqrt[3]{}", r"1+1 as \frac{}{} or \sqrt[3]{}"),
        (r"{} in \boxed{\text{}}", r"1+1 in \boxed{\text{}}"),
        (r"\frac{1}{2} {}", r"\frac{1}{2} 1+1"),
        (r"\sqrt[3]{x}: {}", r"\sqrt[3]{x}: 1+1"),
        (r"\begin{quote}{}\end{quote}", r"\begin{quote}1+1\end{quote}"),
        (r"\boxed{{}} {}", r"\boxed{} 1+1"),
        ('{"question": {}}', '{"question": 1+1}'),
        (r"{} in \boxed{<answer>}", r"1+1 in \boxed{<answer>}"),
        ("{0}", "1+1"),
        ("{:s}!", "1+1!"),
        ('{question} Answer as {"answer": 5}.', '1+1 Answer as {"answer": 5}.'),
        ("{} {{x}}", "1+1 {x}"),
        ("{} and {answer}", "1+1 and {answer}"),
        ("{} }", "1+1 }"),
        (r"Q:\n{}", r"Q:\n1+1"),  # as OpenRLHF has it; the dry run says so
        (PAPER_TEMPLATE, PAPER_TEMPLATE.format("1+1")),
    ],
)
def test_templates(template: str, text: str) -> None:
    parsed = Template.parse("--t", template)
    assert parsed("1+1") == text
    assert parsed.for_format().format("1+1") == text, "what OpenRLHF makes of it"
    assert parsed("{} {x} {{}}") == text.replace("1+1", "{} {x} {{}}"), "a prompt's own braces stay"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Solve:", "has no placeholder for the prompt"),
        ("", "has no placeholder for the prompt"),
        (r"Put it in \boxed{}.", "has no placeholder for the prompt"),
        ("Q {{}}", "has no placeholder for the prompt"),
        ("{name}", "has no placeholder for the prompt"),
        ("{} and {}", "has 2 placeholders for the prompt"),
        ("{prompt} and {}", "has 2 placeholders for the prompt"),
        ("{0} {0}", "has 2 placeholders for the prompt"),
    ],
)
def test_templates_that_are_refused(template: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Template.parse("--data.input_template", template)
    assert caught.value.flag == "--data.input_template"


USER = {"role": "user", "content": "1+1"}


@pytest.mark.parametrize(
    ("prompt", "chat", "template", "problem"),
    [
        ("1+1", False, True, None),
        ([USER], True, False, None),
        ([{"role": "system", "content": "s"}, USER], True, False, None),
        ([{"role": "user", "content": [{"type": "text", "text": "1+1"}]}], True, False, None),
        ([USER], False, False, "needs the model's chat template"),
        ([USER], False, True, "needs the model's chat template"),
        ([USER], True, True, "the template goes around text"),
        (str([USER]), False, True, "chat written as text"),
        (json.dumps([USER]), True, False, "chat written as text"),
        ([], True, False, "not of chat messages"),
        (["1+1"], True, False, "not of chat messages"),
        ([{"role": "user"}], True, False, "not of chat messages"),
        ([{"role": "user", "content": None}], True, False, "has no text"),
        (" \n", False, False, "is empty"),
        (None, False, False, "is null"),
        (12, False, False, "is a number"),
        ({"text": "1+1"}, True, False, "is an object"),
        ("half \ud83d", False, False, "surrogate"),
    ],
)
def test_prompts_that_cannot_be_rendered(prompt: Any, chat: bool, template: bool, problem: str | None) -> None:
    found = prompt_problem(prompt, chat, template)
    assert (found is None) == (problem is None)
    assert problem is None or problem in found[0]


@pytest.fixture(params=["adds a start token", "has one and does not add it", "has none"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Tokenizers that treat a start token as Llama's, DeepSeek's and Qwen's do."""
    kind = request.param
    start = "<s>" if kind == "adds a start token" else None
    more = {"bos_token": "<s>"} if kind == "has one and does not add it" else {}
    return make_tokenizer(tmp_path, words="<>", start=start, chat_template="<s>" + CHAT_TEMPLATE, **more)


@pytest.mark.parametrize(
    ("template", "chat", "prompt"),
    [
        (None, False, "1+1"),
        ("<s>{}", False, "1+1"),
        ("Q: {}", False, "1+1"),
        (None, True, "1+1"),
        ("Q: {}", True, "1+1"),
        (None, True, [USER]),
    ],
)
def test_training_and_evaluation_give_the_model_the_same_tokens(
    tokenizer: Any, template: str | None, chat: bool, prompt: Any
) -> None:
    from openrlhf_sfpo.cli.evaluate import _prompt, _prompt_format

    parsed = Template.parse("--t", template) if template else None
    text = PromptFormat(parsed, chat, tokenizer).render(prompt)
    args = SimpleNamespace(input_template=template, chat=chat, model="m")
    assert _prompt(_prompt_format(args, tokenizer), "set", Problem(prompt, "2")) == text
    # OpenRLHF's executor encodes the rendered prompt like this.
    ids = tokenizer(text=text, add_special_tokens=False, return_tensors="pt")["input_ids"][0].tolist()
    assert encode(tokenizer, text) == ids
    start = tokenizer.convert_tokens_to_ids("<s>")
    adds = tokenizer("1")["input_ids"][0] == start
    wanted = tokenizer.bos_token is not None and (chat or template == "<s>{}" or adds)
    assert ids.count(start) == int(wanted), "once, or not at all"
    assert (ids[0] == start) == wanted
    if template == "Q: {}":
        assert "Q: 1+1" in text


def test_keys_that_parquet_adds_to_messages_are_left_out(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path, chat_template="{% for m in messages %}{{ m.keys() | list }}{% endfor %}")
    rendered = PromptFormat(None, True, tokenizer).render([{**USER, "name": None}])
    assert rendered == "['role', 'content']"


def write_model(directory: Path, **config: Any) -> Path:
    make_tokenizer(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 131, **config}))
    return directory


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7031645\n"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "tokenizer.json").write_text("{}"), "cannot be loaded (KeyError"),
        (lambda d: (d / "tokenizer.json").write_text(""), "cannot be loaded (JSONDecodeError"),
        (lambda d: (d / "tokenizer.json").write_text(POINTER), "tokenizer.json is a pointer of Git LFS"),
        (lambda d: (d / "tokenizer_config.json").write_text(POINTER), "tokenizer_config.json is a pointer of Git LFS"),
        (lambda d: edit(d / "tokenizer_config.json", eos_token=None), "has no end-of-sequence token"),
        (lambda d: edit(d / "config.json", vocab_size=60), "are beyond it ("),
        (
            lambda d: (
                edit(d / "tokenizer_config.json", extra_special_tokens=["<|tool|>"], vocab_size=1)
                or edit(
                    d / "config.json", vocab_size=len(json.loads((d / "tokenizer.json").read_text())["model"]["vocab"])
                )
            ),
            "1 tokens of its tokenizer are beyond it ('<|tool|>' is",
        ),
    ],
)
def test_tokenizers_that_do_not_work_are_named(tmp_path: Path, break_it: Any, message: str) -> None:
    model = write_model(tmp_path / "model")
    break_it(model)
    with pytest.raises(UsageError) as caught:
        tokenizers.load_tokenizer("--actor.model_name_or_path", str(model))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_larger_than_the_tokenizer_is_fine(tmp_path: Path) -> None:
    assert tokenizers.load_tokenizer("--m", str(write_model(tmp_path, vocab_size=4096))).eos_token == "</s>"


def test_tokens_that_only_the_tokenizers_class_adds_are_fine(tmp_path: Path) -> None:
    model = write_model(tmp_path, model_type="qwen2")
    words = len(json.loads((model / "tokenizer.json").read_text())["model"]["vocab"])
    edit(model / "config.json", vocab_size=words)
    loaded = tokenizers.load_tokenizer("--m", str(model))
    assert len(loaded) > words, "its class has no token of its own any more"


def test_a_model_without_a_tokenizer_is_to_be_completed(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="has no tokenizer"):
        tokenizers.load_tokenizer("--m", str(tmp_path))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('no') }}", "fails (no)"),
        ("{% for %}", "fails ("),
    ],
)
def test_chat_templates_that_do_not_work(tmp_path: Path, template: str | None, message: str) -> None:
    tokenizer = make_tokenizer(tmp_path, chat_template=template)
    with pytest.raises(UsageError) as caught:
        tokenizers.check_chat_template("--m", tokenizer, "model", "--data.apply_chat_template")
    assert message in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "auto_map", [{"AutoTokenizer": [None, "mine.Mine"]}, {"AutoModelForCausalLM": "someone/repository--mine.Mine"}]
)
def test_code_of_a_model_directory_runs_only_when_asked(tmp_path: Path, file: str, auto_map: dict[str, Any]) -> None:
    model = write_model(tmp_path / "model")
    edit(model / file, auto_map=auto_map)
    (model / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match=r"mine.Mine.*--actor.trust_remote_code"):
        tokenizers.check_model_code("--actor.model_name_or_path", str(model), "--actor.trust_remote_code", False)
    tokenizers.check_model_code("--actor.model_name_or_path", str(model), "--actor.trust_remote_code", True)
    assert not (tmp_path / "ran").exists()


def test_code_of_a_model_on_the_hub_is_refused_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    cached = tmp_path / "models--someone--model"
    write_model(cached / "snapshots" / "abc", auto_map={"AutoConfig": "mine.Mine"})
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tokenizers.check_model_code("--m", "someone/model", "--code", False, download=False)
    tokenizers.check_model_code("--m", "someone/other", "--code", False)
    with pytest.raises(UsageError, match=r"mine.Mine.*--code"):
        tokenizers.check_model_code("--m", "someone/model", "--code", False)
