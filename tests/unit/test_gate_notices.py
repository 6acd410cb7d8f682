"""Notices of the gate: when it closes, and when it opens again."""

from typing import Any

import pytest

from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.orchestration.algorithm import build_update
from openrlhf_sfpo.orchestration.gate_notices import GateNotices

LEVEL = [1.0, 1.1, 1.0, 1.1]  # entropies that fill a window of four
JUMP, DROP = 2.0, 0.1


def said(entropies: list[float], **config: Any) -> list[str | None]:
    """The notices after batches with these entropies."""
    update = build_update(SFPOConfig(**{"k": 2, "gate_window": 4, "gate_threshold": 1.5, **config}), None, print)
    notices = GateNotices(update)
    texts = []
    for entropy in entropies:
        update.gate.finish_batch()
        texts.append(notices.look(update.gate.observe(entropy)))
    return texts


def test_closing_is_reported_once_with_the_reason() -> None:
    *before, text, after, later = said([*LEVEL, JUMP, JUMP, DROP])
    assert before == [None] * 4
    assert text == (
        "the gate closes: the z-score of the policy's entropy is 1.72, at or beyond the threshold z >= 1.5 "
        "(--sfpo.gate_threshold, window 4); the remaining updates are GRPO"
    )
    assert (after, later) == (None, None)


@pytest.mark.parametrize(
    ("config", "entropies", "words"),
    [
        ({"gate_after": "decay", "gate_decay_steps": 5}, [JUMP], ["alpha falls to zero over the next 5 batches"]),
        ({"gate": "two_sided"}, [DROP], ["entropy is -1.7", "|z| >= 1.5"]),
        ({"gate_patience": 2, "gate_threshold": 1.2}, [JUMP, JUMP + 1], ["in 2 batches in a row"]),
        ({"preset": "lookahead"}, [JUMP], ["the gate closes"]),
        ({"preset": "grpo_scaled_lr"}, [JUMP], ["the gate closes"]),
        ({"preset": "grpo", "outer_momentum": 0.5}, [JUMP], ["the gate closes"]),
        ({"preset": "prepo", "stop_step": 5}, [1.0], ["PrePO ends here"]),
        ({"stop_step": 5}, [1.0], ["SFPO ends here (--sfpo.stop_step 5); the remaining updates are GRPO"]),
    ],
)
def test_the_notice_says_what_follows(config: dict[str, Any], entropies: list[float], words: list[str]) -> None:
    texts = said([*LEVEL, *entropies], **config)
    assert [text for text in texts if text] == [texts[-1]]
    assert all(word in texts[-1] for word in words), texts


def test_a_gate_that_opens_again() -> None:
    texts = said([*LEVEL, JUMP, 1.0], gate_after="reopen")
    assert "updates are GRPO until it is below that again" in texts[4]
    assert texts[5].startswith("the gate is open again (z-score of the policy's entropy -0.6")
    assert texts[5].endswith("updates are SFPO")


def test_no_notice_in_a_run_resumed_without_its_closed_gate() -> None:
    update = build_update(SFPOConfig(gate="off"), None, print)
    update.gate.load_state_dict({**update.gate.state_dict(), "closed_at": 3})
    assert GateNotices(update).look(0.5) is None


@pytest.mark.parametrize("config", [{"gate": "off"}, {"preset": "grpo"}, {"enable": False}, {"k": 0}])
def test_no_notice_without_a_gate_or_fast_passes(config: dict[str, Any]) -> None:
    assert said([*LEVEL, JUMP], **config) == [None] * 5


def test_a_resumed_run_does_not_repeat_the_notice_of_a_closed_gate() -> None:
    update = build_update(SFPOConfig(k=2, gate_window=4, gate_threshold=1.5), None, print)
    for entropy in [*LEVEL, JUMP]:
        update.gate.finish_batch()
        update.gate.observe(entropy)
    again = build_update(SFPOConfig(k=2, gate_window=4, gate_threshold=1.5), None, print)
    again.load_state_dict(update.state_dict())
    notices = GateNotices(again)
    again.gate.finish_batch()
    assert notices.look(again.gate.observe(JUMP)) is None
