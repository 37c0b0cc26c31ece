"""Training: one state, one pure step, and what keeps a run alive: shardings, checkpoints, compilation cache."""
