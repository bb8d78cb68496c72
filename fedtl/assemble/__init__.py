"""From a config to the parts of a run: tasks, engines, worker, strategy, and what they run on."""
