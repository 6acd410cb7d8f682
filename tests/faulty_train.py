"""Run as a program: `openrlhf-sfpo train` with the faults of `faults`."""

import os
import sys

from openrlhf_sfpo.orchestration import flash_attn_stub


def main() -> int:
    flash_attn_stub.install_if_missing()
    import faults
    import ray

    os.environ[faults.DRIVER] = str(os.getpid())
    from openrlhf_sfpo.cli import train
    from openrlhf_sfpo.orchestration import hooks, trainers

    reference = hooks.model_actors("megatron")[1]
    hooks.model_actors = lambda backend: (ray.remote(num_gpus=1)(faults.FaultyPolicy), reference)
    trainers.Trainer = faults.FaultyTrainer
    return train.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
