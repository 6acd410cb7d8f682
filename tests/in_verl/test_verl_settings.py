"""The settings of SFPO in verl's config, and what is refused."""

from typing import Any

import pytest

from openrlhf_sfpo.verl import plugin
from openrlhf_sfpo.verl.passes import _refuse
from openrlhf_sfpo.verl.settings import settings_of


@pytest.mark.parametrize(
    ("sfpo", "message"),
    [
        ({"kk": 3}, "actor_rollout_ref.sfpo.kk: there is no such setting"),
        ({"alpha": 2}, "actor_rollout_ref.sfpo.alpha: is 2"),
        ({"k": -1}, "actor_rollout_ref.sfpo.k: is -1"),
        ({"fast_fraction": 0.5}, "fast_fraction: is 0.5, which SFPO in verl does not support"),
        ({"outer_momentum": 0.5}, "outer_momentum"),
        ({"prepo_per": "train_batch"}, "prepo_per"),
        ({"gate_entropy": "start"}, "gate_entropy"),
    ],
)
def test_bad_settings(sfpo: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of({"sfpo": sfpo})


def test_without_settings_nothing_changes() -> None:
    assert settings_of({}) is None
    assert settings_of({"sfpo": {"enable": False}}) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"lora_rank": 8}, "actor": {"calculate_entropy": True}}, "lora_rank: is 8"),
        ({"model": {"lora": {"rank": 4}}, "actor": {"calculate_entropy": True}}, "lora_rank: is 4"),
        ({"actor": {}}, "actor_rollout_ref.actor.calculate_entropy=True"),
    ],
)
def test_what_does_not_go_together(config: dict[str, Any], message: str) -> None:
    found = settings_of({"sfpo": {"k": 3}})
    assert found is not None
    with pytest.raises(ValueError, match=message):
        _refuse(found, config)


def test_another_verl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.check_version()
    monkeypatch.setattr(plugin, "version", lambda name: "1.2.3")
    with pytest.raises(plugin.DidNotTakeHold, match=r"verl 1\.2\.3\. Install one of: 0\.7\.1, 0\.8\.0, 0\.9\.1"):
        plugin.check_version()


def test_workers_and_trainer_are_wrapped_and_keep_what_verl_has_registered() -> None:
    from verl.single_controller.base.decorator import MAGIC_ATTR
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer
    from verl.workers.engine_workers import ActorRolloutRefWorker

    plugin.install()
    for function in (ActorRolloutRefWorker.init_model, RayPPOTrainer._update_actor):
        assert function.__wrapped__.__module__.startswith("verl.")
    assert hasattr(ActorRolloutRefWorker.init_model, MAGIC_ATTR)


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_in_which_it_did_not_take_hold_fails(asked: bool) -> None:
    """verl's trainer with workers that trained without SFPO."""
    from types import ModuleType, SimpleNamespace

    module = ModuleType("trainer")

    class RayPPOTrainer:
        config = SimpleNamespace(actor_rollout_ref={"sfpo": {"k": 3}} if asked else {})

        def _update_actor(self, batch: Any) -> Any:
            return SimpleNamespace(meta_info={"metrics": {"actor/pg_loss": 0.1}})

    module.RayPPOTrainer = RayPPOTrainer  # type: ignore[attr-defined]
    plugin._wrap_trainer(module)
    if asked:
        with pytest.raises(plugin.DidNotTakeHold, match="VERL_USE_EXTERNAL_MODULES"):
            RayPPOTrainer()._update_actor(None)
    else:
        RayPPOTrainer()._update_actor(None)
