"""packmule's toolkit: the replay store, the loops, the statistics and the command line."""
