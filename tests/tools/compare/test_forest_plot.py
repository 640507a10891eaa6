"""The forest plot: what is drawn where, and which markers are filled."""

import pytest
from matplotlib import colors, pyplot

from lightning_modules.metrics.intervals import Interval
from tools.compare.forest_plot import draw_forest

pytestmark = pytest.mark.unit


def test_points_and_intervals(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    panels = {
        "all clips": {
            "run $a": {"WAR": Interval(0.1, 0.05, 0.2), "FCR": Interval(-0.1, -0.3, 0.1)},
            "run b": {"WAR": Interval(0.0, 0.0, 0.0)},
        },
        "per class": {"run $a": {"fear (3)": Interval(-0.2, -0.4, -0.1)}, "run b": {}},
    }
    draw_forest(panels, "Two $ runs", tmp_path / "forest.png")
    assert (tmp_path / "forest.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["WAR", "FCR"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"run \$a", "run b"]
    assert (left.get_title(), right.get_title()) == ("all clips", "per class")
    markers = [line for line in left.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in markers] == pytest.approx([10, -10, 0])
    filled = [not colors.same_color(line.get_markerfacecolor(), "white") for line in markers]
    assert filled == [True, False, False]
    bars = [tuple(line.get_xdata()) for line in left.lines[1:] if line.get_marker() != "o"]
    assert bars == [pytest.approx((5, 20)), pytest.approx((-30, 10)), (0, 0)]
    # The first row is on top, and the first run above the second.
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert markers[0].get_ydata()[0] < markers[2].get_ydata()[0] < markers[1].get_ydata()[0]
