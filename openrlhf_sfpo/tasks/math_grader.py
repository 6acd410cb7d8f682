"""Whether the boxed answer of a response equals a reference answer, by math-verify."""

from dataclasses import dataclass

from openrlhf_sfpo.tasks.answers import last_boxed


@dataclass(frozen=True)
class MathGrade:
    """What became of a response.

    Attributes:
        correct: its answer equals the reference.
        boxed: it has an answer in a \\boxed{}.
    """

    correct: bool
    boxed: bool


def grade(response: str, label: str) -> MathGrade:
    """Grade a response; never raises for odd input. Call it in a process's main thread: math-verify bounds its time
    with signals.

    Args:
        response: text without prompt and special tokens.
        label: the reference answer.
    """
    from math_verify import parse, verify

    answer = last_boxed(response)
    if answer is None:
        return MathGrade(correct=False, boxed=False)
    if answer.strip() == label.strip():
        return MathGrade(correct=True, boxed=True)
    return MathGrade(bool(verify(parse(f"${label}$"), parse(f"\\boxed{{{answer}}}"))), boxed=True)
