"""Losses of items beside the main one, by what is known about them. Each is off at weight 0.

Axes: N items of a step, D dimensions, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys import losses, models
from recsys.content import ContentRows
from recsys.distances import cosine
from recsys.spaces import unit_rows

if TYPE_CHECKING:
    from recsys.training import Training

ITEMS = 512  # drawn in a step


def item_losses(training: Training) -> Tensor | None:
    """(): the weighted sum of a step; None if all weights are 0, or nothing is known about the items."""
    settings, content = training.settings, training.model.content
    if content is None or settings.attribute_weight == settings.view_weight == 0:
        return None
    total = content.weight.new_zeros(())
    if settings.attribute_weight > 0:
        total = total + settings.attribute_weight * attribute_loss(training, content)
    if settings.view_weight > 0:
        total = total + settings.view_weight * view_loss(training, content)
    return total


def attribute_loss(training: Training, content: ContentRows) -> Tensor:
    """(): mean hinge of items of one value against others, by the cosine distances of their rows.

    Attribute-guided metric learning: items that share a value are nearer to each other than to others by
    attribute_margin, which is to be smaller than the margin of taste.
    """
    items, counts = content.items_of_a_value(ITEMS, training.generator)  # (3, N), (N,)
    number = items.flatten()
    own = models.rows(training.model.items, number)
    anchor, same, other = unit_rows(content.some(own, number, training.model.drawn())).view(*items.shape, -1)
    near, far = ((1 - (anchor * part).sum(1)) for part in (same, other))  # (N,)
    hinge = losses.triplet_margin(near, far, training.settings.attribute_margin)
    return (hinge * counts).sum() / counts.sum().clamp_min(1)


def view_loss(training: Training, content: ContentRows) -> Tensor:
    """(): InfoNCE of two views of an item, each without a share of the features, among N items.

    Yao et al. 2021 (Self-supervised Learning for Large-scale Item Recommendations), eq. 1, with features left
    out at random. Rows are of content alone; the temperature is that of the main loss.
    """
    known, generator = content.known_items, training.generator
    some = known[torch.randperm(len(known), generator=generator, device=known.device)[:ITEMS]]  # (N,)
    d = cosine(content.view(some, generator), content.view(some, generator))  # (N, N)
    same = torch.eye(len(some), dtype=torch.bool, device=d.device)
    return losses.sampled_softmax(d, same, ~same, training.settings.temperature).mean()
