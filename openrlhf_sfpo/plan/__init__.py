"""Plans the memory of a run on each GPU and suggests layouts, from config.json and the flags alone."""
