"""CLAP: ZS-LP with a penalty on leaving the text weights, stronger where zero-shot classification is right."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.methods import zs_lp
from engine.model import Embedding, class_means
from engine.model.residual import ResidualClassifier, penalty
from engine.training.evaluate import EMBEDDED
from engine.training.task import Task


@torch.no_grad()
def multipliers(task: Task) -> Tensor:
    """Return the mean zero-shot probability [C] of the true class over the training images of each class."""
    embedding, own = Embedding(task.trainable_layers[:1]).eval(), task.own
    logits = torch.cat([F.linear(embedding(inputs), task.zeroshot) for inputs, _ in own.batches(EMBEDDED)])
    true = (task.scale * logits).softmax(1).gather(1, own.labels.unsqueeze(1))
    return class_means(true, own.labels, len(task.text)).squeeze(1)


def build(task: Task) -> ResidualClassifier:
    """Return the classifier that training starts from, with the multipliers of its penalty."""
    embedding = Embedding(task.trainable_layers[: len(task.samples)])
    return ResidualClassifier(embedding, task.text, task.scale, multipliers(task)).eval()


METHOD = replace(zs_lp.METHOD, title="CLAP", fit=replace(zs_lp.METHOD.fit, build=build, penalty=penalty))
