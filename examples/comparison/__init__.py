"""What `compare.py` is made of: training, what is kept of a run, measures with intervals, table and plot."""
