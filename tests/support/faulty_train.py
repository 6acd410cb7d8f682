"""Run as a program: `openrlhf-sfpo train` with the faults of `faults`."""

import os
import sys
from typing import Any

from openrlhf_sfpo.cli import train
from openrlhf_sfpo.orchestration import hooks


def main() -> int:
    os.environ["FAULTS_DRIVER"] = str(os.getpid())
    without_faults = hooks.model_actors

    def model_actors(backend: str) -> tuple[Any, Any]:
        # Not before they are needed: the imports take seconds, and many runs are refused before this point.
        import faults
        import ray

        from openrlhf_sfpo.orchestration import trainers

        trainers.Trainer = faults.FaultyTrainer  # type: ignore[misc]
        return ray.remote(num_gpus=1)(faults.FaultyPolicy), without_faults(backend)[1]

    hooks.model_actors = model_actors
    return train.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
