"""Partial fine-tuning (section 4 of the protocol): the last layers of the encoder are trained with the linear layer.

A ResNet's attention pool, or the last block of a vision transformer. The scale of the logits is as in the authors'
scripts, exp(4.0) = 54.6; the paper's text has 50.
"""

from engine.methods.method import Method
from engine.training.descent import GradientDescent
from engine.training.grid import Grid

METHOD = Method(
    title="partial fine-tuning",
    grid=Grid(lr=(1e-5, 1e-6, 1e-7), weight_decay=(0.0, 0.001, 0.00001), batch_size=(8,)),
    fit=GradientDescent(),
    image_layer=1,
    log_logit_scale=4.0,
)
