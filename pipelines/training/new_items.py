"""New items in the model that validation chose: which spaces rank them, and how near they are to all users.

Both leave the order of fitted items as it is. Axes: U users, I fitted items, C new items, Q judged users.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from pipelines.training.judging import NewItemJudges
from pipelines.training.together import Candidate, Chosen, Together, is_more_than_noise
from recsys.judge import Values

LOGGER = logging.getLogger("recsys")

LEAST_USERS = 30  # who take new items; with fewer there is no choice among spaces
SHIFTS = (0.0, 0.5, 1.0, 2.0, -0.5, -1.0, -2.0)  # nearer by so many spreads of the first space, or farther
NEAREST, BISECTIONS = 4.0, 6
JUDGINGS = len(SHIFTS) + BISECTIONS


# Long: a search in one loop.
def add(
    together: Together,
    chosen: Chosen,
    candidates: list[Candidate],
    judges: NewItemJudges | None,
    deadline: float = float("inf"),
) -> Chosen:
    """The model with those candidates that rank new items alone, by how these are ranked among themselves.

    Forward selection as in Together, within new_dim coordinates and until the clock's `deadline`. If no space
    of the model places new items, the best candidate does in any case; the first one where too few users take
    new items.
    """
    kept = together.kept(chosen, candidates)
    names = {one.part.name for one in kept}
    extra = [one for one in candidates if one.part.for_new and one.part.name not in names]
    room, weights = together.settings.new_dim, sorted(together.settings.weights, reverse=True)
    is_placed = any(one.part.learns_from_features for one in kept)
    if judges is None or len(judges.alone.users) < LEAST_USERS:
        if not is_placed and extra:
            kept.append(extra[0])
        return chosen._replace(parts=tuple(one.part for one in kept))

    def score(some: list[Candidate]) -> NDArray[np.float64]:
        users, items = together.vectors(some)
        alone = judges.alone
        return alone.values(alone.rank((users, items[together.n_items :])))[together.select]

    best = score(kept) if is_placed else None
    while True:
        found: tuple[Candidate, NDArray[np.float64]] | None = None
        for one in extra:
            if one.dim > room:
                continue
            last = -1.0
            for weight in weights if best is not None else (1.0,):
                if best is not None and together.is_after(deadline):
                    break
                added = one._replace(part=one.part._replace(weight=weight))
                value = score([*kept, added])
                if value.mean() < last:  # a smaller weight helps less from here on
                    break
                last = float(value.mean())
                counts = best is None or is_more_than_noise(value - best)
                if counts and (found is None or value.mean() > found[1].mean()):
                    found = added, value
        if found is None:
            break
        kept, best, room = [*kept, found[0]], found[1], room - found[0].dim
        extra = [one for one in extra if one.part.name != found[0].part.name]
        LOGGER.info(
            f"train: new items: {found[0].part.name}, weight {found[0].part.weight:g}: validation "
            f"{together.select} {best.mean():.4f} among themselves"
        )
    return chosen._replace(parts=tuple(one.part for one in kept))


def shift(
    together: Together,
    chosen: Chosen,
    candidates: list[Candidate],
    shifts: tuple[Candidate, Candidate],
    judges: NewItemJudges,
) -> Chosen:
    """The model with new items nearer to all users, as far as new_items_price allows, or farther away.

    A space says which new items suit a user, not how many of them a list should hold. First they are where
    the metric of all items is best, then as much nearer as the price lasts: by bisection, as it falls.
    """
    kept, (nearer, farther) = together.kept(chosen, candidates), shifts
    metrics = together.select, f"hit_rate@{together.select.partition('@')[2]}"
    judge, known = judges.together, dict[float, Values]()

    def shifted(weight: float) -> Candidate:
        one = nearer if weight > 0 else farther
        return one._replace(part=one.part._replace(weight=abs(weight)))

    def values(weight: float) -> Values:
        if weight not in known:
            known[weight] = judge.values(judge.rank(together.vectors([*kept, shifted(weight)])))
        return known[weight]

    def left(weight: float, best: float) -> float:
        return min(
            float(values(weight)[name].mean() / max(values(best)[name].mean(), 1e-12)) for name in metrics
        )

    best = max(SHIFTS, key=lambda weight: (values(weight)[together.select].mean(), -abs(weight)))
    low, high = best, NEAREST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if left(middle, best) >= 1 - together.settings.new_items_price:
            low = middle
        else:
            high = middle
    now, most = (float(values(weight)[together.select].mean()) for weight in (low, best))
    LOGGER.info(
        f"train: new items {abs(low):.2f} spreads {'nearer' if low >= 0 else 'farther'}: validation "
        f"{together.select} of all items {now:.4f}, {most:.4f} before new_items_price was spent"
    )
    return chosen._replace(parts=(*chosen.parts, shifted(low).part))
