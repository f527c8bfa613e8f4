"""The picture of a search."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.report.figures import STYLED, Drawing, to_drawing
from pipelines.tuning import trials


@STYLED
def draw_search(rows: list[trials.Row], importances: dict[str, float], select: str) -> Drawing:
    """Draw the score of each trial, and how much each setting mattered if that is known."""
    figure = Figure(figsize=(10 if importances else 6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2 if importances else 1, squeeze=False)[0]
    _draw_trials(axes[0], rows, select)
    if importances:
        names = sorted(importances, key=lambda name: importances[name])
        axes[1].barh(names, [importances[name] for name in names], color="tab:grey")
        axes[1].set(title="Importance (PED-ANOVA)", xlabel="share of what settings decide")
        axes[1].set_xlim(0, 1)
    figure.legend(loc="outside lower center", ncols=4)
    best = trials.best(rows)
    description = "no trial has finished" if best is None else f"best {select} {trials.score(best):.4f}"
    return to_drawing(figure, "trials", "Trials of the search", description)


def _draw_trials(axes: Axes, rows: list[trials.Row], select: str) -> None:
    """Each trial's best epoch, and the best so far of those that have finished."""
    known = [row for row in rows if row.validation is not None]
    finished = [row for row in known if row.outcome == trials.FINISHED]
    for label, marker, color, some in (
        ("finished", "o", "tab:blue", finished),
        ("not finished", "x", "tab:orange", [row for row in known if row.outcome != trials.FINISHED]),
    ):
        if some:
            at = [row.trial for row in some]
            axes.plot(at, [trials.score(row) for row in some], marker, color=color, label=label)
    if finished:
        so_far = [trials.best(finished[: n + 1]) for n in range(len(finished))]
        line = [trials.score(row) for row in so_far if row is not None]
        axes.step([row.trial for row in finished], line, where="post", color="tab:green", label="best so far")
    start = trials.base(rows)
    if start is not None and start.validation is not None:
        axes.axhline(start.validation, color="grey", linestyle=":", label="base configuration")
    axes.set(title="Trials", xlabel="trial", ylabel=f"validation {select}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
