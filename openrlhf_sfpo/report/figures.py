"""Creates matplotlib figures without a display."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Any:
    """A figure of the given size in inches."""
    # Imported here, because matplotlib takes a second to import and is rarely needed.
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def finish_panel(axes: "Axes") -> None:
    """Label a panel over training steps; an empty one says so."""
    axes.set_xlabel("step (rollout batch)")
    axes.grid(alpha=0.3)
    if not axes.has_data():
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color="gray")


def as_png(figure: "Figure") -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return buffer.getvalue()
