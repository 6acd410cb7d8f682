"""Run directories: writing them while a run goes on, and drawing them."""
