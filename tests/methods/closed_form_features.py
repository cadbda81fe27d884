"""Image and text features with a modality gap, in closed form: 47 classes, 1024 dimensions (numpy's legacy streams).

The goldens of the methods are values on the first ten of these classes.
"""

import numpy as np

C, D = 47, 1024


def world():
    r = np.random.RandomState(7)
    base = r.standard_normal((C, D))
    img_only = r.standard_normal((C, D))
    txt_only = r.standard_normal((C, D))
    gap_i, gap_t = 2.0 * r.standard_normal(D), 2.0 * r.standard_normal(D)
    mu_i = 0.35 * base + 0.35 * img_only
    mu_t = 0.35 * base + 0.45 * txt_only
    return mu_i, mu_t, gap_i, gap_t


def images(n_per_class, stream, noise=20.0):
    mu_i, _, gap_i, _ = world()
    y = np.repeat(np.arange(C), n_per_class)
    r = np.random.RandomState(stream)
    nuis = r.standard_normal((len(y), 40)) @ np.random.RandomState(11).standard_normal((40, D)) * 0.2
    x = mu_i[y] + gap_i + 0.15 * noise * r.standard_normal((len(y), D)) + nuis
    return (0.1 * x).astype(np.float32), y


def texts():
    _, mu_t, _, gap_t = world()
    return (0.1 * (mu_t + gap_t)).astype(np.float32), np.arange(C)


def problem(shot, seed):
    """Training images, their flipped view, validation images, the test set that all share, and one text a class."""
    k = 1000 * shot + 10 * seed
    return {
        "train": images(shot, k),
        "flip": images(shot, k + 1),
        "val": images(min(shot, 4), k + 2),
        "test": images(40, 5),
        "text": texts(),
    }
