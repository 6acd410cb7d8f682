"""SFPO in verl, of which nothing is edited: `VERL_USE_EXTERNAL_MODULES=openrlhf_sfpo.verl`.

verl imports this module while it is being imported itself, in the driver and in every worker. With
`+actor_rollout_ref.sfpo.k=3` and so on (`settings`), the actor's update of a rollout batch becomes K + 1 of verl's own,
around a reposition (`passes`).
"""

from openrlhf_sfpo.verl.plugin import install

install()
