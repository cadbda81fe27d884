"""Where files meet training: `data` reads few-shot problems from splits and the feature store, `sweep` trains grids."""
