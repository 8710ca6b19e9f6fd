"""Following the run: joining, the outer step of each window, recovery and the lineage."""
