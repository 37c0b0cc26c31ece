"""What keeps a run alive: its processes, its signals, its compilations."""
