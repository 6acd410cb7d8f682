"""Run directories: writing them during a run, and drawing them."""
