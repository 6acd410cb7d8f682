"""Making matplotlib figures without a screen."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Any:
    """A figure of that size in inches."""
    # Imported here: matplotlib takes a second, and most users of this package's parts never draw.
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def finish_panel(axes: "Axes") -> None:
    """Label a panel over training steps, which says so if there is nothing in it."""
    axes.set_xlabel("step (rollout batch)")
    axes.grid(alpha=0.3)
    if not axes.has_data():
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="gray")


def as_png(figure: "Figure") -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return buffer.getvalue()
