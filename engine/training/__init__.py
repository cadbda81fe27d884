"""Train classifiers on cached features, with or without layers of the encoders.

- `task`: a task, a run on it and its result; `grid`: hyper-parameters; `descent`: descriptions of fits
- `sequential`: trains one run after another, and defines what training means; `batches`: the order of samples
- `stacked`: trains many runs at once; `plan` groups them, `gradients` has their models, `graphs` replays steps on a GPU
- `side_by_side`: fits closed forms, a core each; `evaluate`: counts correct predictions

`grid`, `schedule` and `descent` import no torch.
"""
