"""How much memory a run takes on each GPU, and which layout to run it in: from config.json and the flags alone."""
