"""Training classifiers on cached features, with or without parts of the encoders that made them.

`problem` says what a run trains on, `batches` in which order, `sequential` defines what training means, `stacked` does
the same for many runs at once (which ones, `plan` says; by which gradients, `gradients`; `graphs` replays its steps on
a GPU), `evaluate` counts correct predictions. `schedule` and `grid` are light: they import no torch.
"""
