"""Pictures show the numbers of the sweep: quantiles, Kaplan-Meier products and decision boundaries are read back."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import matplotlib.colors
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxsoft import plot, style
from jaxsoft.data import Dataset
from jaxsoft.groups import groups
from jaxsoft.process import DIVERGED, MAX_STEPS

LAST, EVERY, CLASSES = 60, 2, 10
PLAIN = math.log(CLASSES)
PICTURES = (plot.plot_loss_curves, plot.plot_survival, plot.plot_final_loss, plot.plot_final_accuracy)


def sweep(medians, runs=20, *, floor=0.01, seed=0) -> xr.Dataset:
    """A sweep as the engine gives it: losses that fall from ln C at a random time around each kind's median."""
    rng = np.random.default_rng(seed)
    step = np.append(np.arange(0, LAST, EVERY), LAST)
    times = np.array(list(medians.values()))[:, None] * np.exp(0.2 * rng.standard_normal((len(medians), runs)))
    end = floor * np.exp(rng.standard_normal(times.shape))[..., None]
    loss = PLAIN * (end + (1 - end) / (1 + np.exp(np.clip(8 * (step / times[..., None] - 1), -50, 50))))
    dims = ("optimizer", "run")
    return xr.Dataset(
        {
            "loss": ((*dims, "step"), loss.astype(np.float32)),
            "accuracy": ((*dims, "step"), (1 - 0.9 * loss / PLAIN).astype(np.float32)),
            "status": (dims, np.full(times.shape, MAX_STEPS, np.int8)),
            "steps": (dims, np.full(times.shape, LAST, np.int32)),
            "committed": (dims, np.ones(times.shape, bool)),
        },
        coords={"optimizer": list(medians), "run": np.arange(runs), "step": step},
        attrs={"num_classes": CLASSES},
    )


def break_run(ds: xr.Dataset, kind: int, run: int, at: int) -> None:
    """A run whose loss rises until it breaks at a step; the engine then repeats the last finite record."""
    step = ds["step"].to_numpy()
    rising = PLAIN * 1.5 ** np.minimum(step, step[step < at].max(initial=0))
    ds["loss"][kind, run], ds["status"][kind, run], ds["steps"][kind, run] = rising, DIVERGED, at


def forget_run(ds: xr.Dataset, kind: int, run: int) -> None:
    """A run that was not reached: what the store holds there is its fill value."""
    ds["committed"][kind, run], ds["status"][kind, run], ds["steps"][kind, run] = False, 0, 0
    ds["loss"][kind, run] = ds["accuracy"][kind, run] = np.nan


def line(ax, label):
    [found] = [line for line in ax.lines if line.get_label() == label]
    return found


def band(ax, i):
    """The lower and the upper edge of the i-th band, over its steps."""
    x, y = ax.collections[i].get_paths()[0].vertices.T
    steps = np.unique(x)
    return steps, np.array([y[x == s].min() for s in steps]), np.array([y[x == s].max() for s in steps])


def draw(ax):
    """Draw for real, so that every warning of the drawing would be raised."""
    FigureCanvasAgg(ax.figure).draw()
    return ax


def test_importing_leaves_pyplot_and_its_state_alone():
    code = "import sys, jaxsoft.plot; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(
    "medians", [{"gd": 40}, {"gd": 200, "adam": 1.5}, {f"kind {i}": 3 * 1.3**i for i in range(12)}], ids=len
)
def test_every_picture_has_labelled_axes_and_draws_without_warning(picture, medians):
    ax = draw(picture(sweep(medians)))
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert tuple(ax.figure.get_size_inches()) == (6, 4)


@pytest.mark.parametrize("picture", PICTURES)
def test_given_axes_are_drawn_into_and_returned(picture):
    own = Figure().subplots(1, 2)
    assert draw(picture(sweep({"gd": 30}), ax=own[1])) is own[1]
    assert not own[0].has_data()


def test_median_and_band_are_numpys_quantiles():
    ds = sweep({"gd": 40, "adam": 5})
    ax = plot.plot_loss_curves(ds)
    for i, kind in enumerate(["gd", "adam"]):
        low, median, high = np.quantile(ds["loss"][i].astype(float), [0.1, 0.5, 0.9], axis=0)
        np.testing.assert_array_equal(line(ax, kind).get_xdata(), ds["step"])
        np.testing.assert_allclose(line(ax, kind).get_ydata(), median, rtol=1e-12)  # the same sums in another order
        steps, lower, upper = band(ax, i)
        np.testing.assert_array_equal(steps, ds["step"])
        np.testing.assert_allclose([lower, upper], [low, high], rtol=1e-12)


def test_diverged_runs_count_until_they_broke_and_unreached_runs_never():
    ds = sweep({"gd": 40, "adam": 5}, runs=6)
    break_run(ds, 0, 1, at=8)
    forget_run(ds, 0, 4)
    forget_run(ds, 1, 0)
    ax = draw(plot.plot_loss_curves(ds))
    loss, early = ds["loss"][0].to_numpy().astype(float), ds["step"].to_numpy() < 8
    expected = np.where(early, np.median(loss[[0, 1, 2, 3, 5]], axis=0), np.median(loss[[0, 2, 3, 5]], axis=0))
    np.testing.assert_allclose(line(ax, "gd").get_ydata(), expected, rtol=1e-12)
    singles = [one.get_ydata() for one in ax.lines if one.get_label() == "_single run"]
    assert len(singles) == 5 + 5
    assert np.isnan(singles[1][~early]).all()
    assert np.isfinite(singles[1][early]).all()
    np.testing.assert_allclose(line(ax, "adam").get_ydata(), np.median(ds["loss"][1, 1:].astype(float), axis=0))


def test_a_kind_of_which_every_run_broke_at_once_is_named_without_a_line():
    ds = sweep({"gd": 40, "adam": 5}, runs=3)
    for run in range(3):
        break_run(ds, 0, run, at=0)
    ds["loss"][0] = np.nan
    for picture in PICTURES:
        draw(picture(ds))
    assert line(plot.plot_loss_curves(ds), "gd").get_xdata().size == 0
    text = [t.get_text() for t in plot.plot_final_loss(ds).texts]
    assert any("3 of 3\ndiverged" in t for t in text)


def test_a_dashed_line_marks_ln_c():
    ax = plot.plot_loss_curves(sweep({"gd": 30}))
    assert line(ax, "_ln C").get_ydata() == pytest.approx([math.log(10)] * 2)
    assert line(ax, "_ln C").get_linestyle() == "--"
    assert "ln C = 2.303" in [text.get_text() for text in ax.texts]
    unknown = sweep({"gd": 30}).drop_attrs()
    assert not [one for one in plot.plot_loss_curves(unknown).lines if one.get_label() == "_ln C"]


def test_single_runs_are_as_many_as_asked():
    ds = sweep({"gd": 30, "adam": 5}, runs=20)
    for sample, expected in ((0, 0), (3, 6), (100, 40)):
        ax = plot.plot_loss_curves(ds, sample=sample)
        assert sum(one.get_label() == "_single run" for one in ax.lines) == expected
    with pytest.raises(ValueError, match="sample: expected an integer >= 0, got -1"):
        plot.plot_loss_curves(ds, sample=-1)


def test_axes_are_logarithmic_only_where_that_shows_more():
    assert plot.plot_loss_curves(sweep({"gd": 30})).get_xscale() == "linear"
    fast = sweep({"gd": 30, "adam": 0.8})
    assert plot.plot_loss_curves(fast).get_xscale() == "symlog"
    assert plot.plot_survival(fast).get_xscale() == "symlog"
    assert plot.plot_loss_curves(fast).get_xlim() == (0, LAST)
    rising = sweep({"gd": 30}, runs=3)
    rising["loss"][:] = PLAIN * np.geomspace(1, 1e4, rising.sizes["step"])
    assert plot.plot_loss_curves(rising).get_yscale() == "log"
    some = sweep({"gd": 30}, runs=20)
    for run in range(4):
        break_run(some, 0, run, at=40)
    ax = plot.plot_loss_curves(some)
    assert ax.get_yscale() == "linear"
    assert PLAIN < ax.get_ylim()[1] < 2 * PLAIN  # the plateau keeps its place, whatever a few runs do


def censored_example() -> xr.Dataset:
    """C = 2, so leaving means loss < 0.9 ln 2 = 0.624: runs leave at 2, 4, 4 and 8, break at 3 and 4, and one stays."""
    step = np.arange(0, 11)
    left, broke = np.array([2, 4, 4, 99, 8, 99, 99]), np.array([99, 99, 99, 3, 99, 99, 4])
    return xr.Dataset(
        {
            "loss": (("run", "step"), np.where(step >= left[:, None], 0.1, math.log(2))),
            "status": ("run", np.where(broke < 99, DIVERGED, MAX_STEPS).astype(np.int8)),
            "steps": ("run", np.minimum(broke, 10)),
            "committed": ("run", np.ones(7, bool)),
        },
        coords={"run": np.arange(7), "step": step},
        attrs={"num_classes": 2},
    )


def test_survival_is_the_kaplan_meier_product():
    ax = draw(plot.plot_survival(censored_example()))
    curve = line(ax, "all runs")
    steps, shares = curve.get_xdata(), curve.get_ydata()
    assert curve.get_drawstyle() == "steps-post"
    after_2 = 6 / 7
    after_4 = after_2 * (1 - 2 / 5)  # one of the six left was watched only until 3
    after_8 = after_4 * (1 - 1 / 2)  # one broke at 4
    for time, share in ((0, 1), (1.9, 1), (2, after_2), (3.9, after_2), (4, after_4), (8, after_8), (10, after_8)):
        assert shares[np.searchsorted(steps, time, side="right") - 1] == pytest.approx(share, rel=1e-12), time
    ticks = line(ax, "_censored")
    np.testing.assert_allclose(ticks.get_xydata(), [[3, after_2], [4, after_4], [10, after_8]], rtol=1e-12)
    assert ticks.get_marker() == "|"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["all runs: 8", "last seen there"]
    assert "0.624" in ax.get_ylabel()


def test_the_band_lies_around_the_survival_curve():
    ds = sweep({"gd": 40})
    ax = plot.plot_survival(ds)
    curve = line(ax, "gd")
    x, y = ax.collections[0].get_paths()[0].vertices.T
    for time, share in zip(curve.get_xdata(), curve.get_ydata(), strict=True):
        here = y[x == time]
        if 0 < share < 1 and here.size:
            assert here.min() < share < here.max()


def test_a_median_that_is_not_reached_is_said_to_be_later():
    ds = sweep({"gd": 500, "adam": 10})
    legend = [text.get_text() for text in plot.plot_survival(ds).get_legend().get_texts()]
    assert legend[0] == f"gd: > {LAST}"
    assert legend[1].startswith("adam: ")
    assert 0 < int(legend[1].removeprefix("adam: ")) <= LAST


@pytest.mark.parametrize("runs", [1, 6, 20, 1000])
def test_strips_and_boxes_hold_the_final_values(runs):
    ds = sweep({"gd": 30, "adam": 10}, runs=runs)
    for picture, name in ((plot.plot_final_loss, "loss"), (plot.plot_final_accuracy, "accuracy")):
        ax = picture(ds)
        for i, kind in enumerate(["gd", "adam"]):
            final = np.sort(ds[name][i, :, -1].to_numpy().astype(float))
            shown = np.sort(line(ax, kind).get_xdata())
            assert shown.size == min(runs, plot.STRIP)
            np.testing.assert_array_equal(shown[[0, -1]], final[[0, -1]])
            assert np.isin(shown, final).all()
            drawn = [one.get_xdata() for one in ax.lines if (one.get_color(), one.get_linewidth()) == ("black", 2)]
            assert (len(drawn) == 2) == (runs >= 5)
            if runs >= 5:
                np.testing.assert_allclose(drawn[i], np.median(final), rtol=1e-12)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["gd", "adam"]


def test_final_values_leave_out_what_has_no_end():
    ds = sweep({"gd": 30}, runs=4)
    break_run(ds, 0, 2, at=11)
    forget_run(ds, 0, 0)
    ax = draw(plot.plot_final_loss(ds))
    np.testing.assert_array_equal(np.sort(line(ax, "gd").get_xdata()), np.sort(ds["loss"][0, [1, 3], -1]))
    assert any("1 of 3\ndiverged" in text.get_text() for text in ax.texts)


def test_final_losses_of_exactly_zero_are_drawn():
    ds = sweep({"gd": 3}, runs=6)
    ds["loss"][0, :3, -1] = 0
    ax = draw(plot.plot_final_loss(ds))
    assert ax.get_xscale() == "symlog"
    low, high = ax.get_xlim()
    assert low < 0 < float(ds["loss"].max()) < high


def test_held_out_accuracy_goes_before_training_accuracy():
    ds = sweep({"gd": 30})
    assert plot.plot_final_accuracy(ds).get_xlabel() == "final accuracy on training data"
    ax = plot.plot_final_accuracy(ds.assign(test_accuracy=ds["accuracy"] / 2))
    assert ax.get_xlabel() == "final accuracy on held-out data"
    assert line(ax, "gd").get_xdata().max() == pytest.approx(float(ds["accuracy"][..., -1].max()) / 2)


def test_other_axes_are_pooled():
    one, two = sweep({"gd": 30, "adam": 5}, seed=1), sweep({"gd": 20, "adam": 9}, seed=2)
    ds = xr.concat([one, two], dim=xr.Variable("scale", [0.1, 1.0])).assign_attrs(num_classes=10)
    for by, labels in (("optimizer", ["gd", "adam"]), ("scale", ["scale 0.1", "scale 1"]), (None, ["all runs"])):
        ax = draw(plot.plot_loss_curves(ds, by=by))
        for i, label in enumerate(labels):
            part = ds["loss"] if by is None else ds["loss"].isel({by: i})
            axes = [dim for dim in part.dims if dim != "step"]
            np.testing.assert_allclose(line(ax, label).get_ydata(), part.astype(float).median(axes), rtol=1e-12)
        assert line(ax, labels[0]).get_ydata().shape == ds["step"].shape


def test_groups_name_what_is_wrong():
    ds = sweep({"gd": 30})
    with pytest.raises(
        ValueError, match=r"by: expected one of optimizer, run, got 'optimiser' \(nearest: 'optimizer'\)"
    ):
        groups(ds, "optimiser")
    with pytest.raises(ValueError, match="dataset: expected the result of a sweep, got one without status, committed"):
        groups(ds.drop_vars(["status", "committed"]))
    with pytest.raises(ValueError, match="expected a sweep that records 'loss', got status, steps, committed"):
        plot.plot_loss_curves(ds.drop_vars(["loss", "accuracy"]))
    with pytest.raises(ValueError, match="dataset: expected at least one committed run, got none"):
        plot.plot_final_loss(ds.assign(committed=~ds["committed"]))
    with pytest.raises(ValueError, match="dataset: expected a sweep of a classifier, with the attribute num_classes"):
        plot.plot_survival(ds.drop_attrs())


def test_a_sweep_of_a_single_run_has_one_group():
    ds = sweep({"gd": 30}).isel(optimizer=0, run=0, drop=True)
    [group] = groups(ds)
    assert (group.label, group.data.sizes["lane"]) == ("all runs", 1)
    for picture in PICTURES:
        draw(picture(ds))
    np.testing.assert_array_equal(line(plot.plot_loss_curves(ds), "all runs").get_ydata(), ds["loss"])


def test_up_to_35_groups_look_different_without_colour():
    looks = [style.style(i) for i in range(35)]
    assert len(set(looks)) == 35
    assert len({(look.line, look.marker) for look in looks}) == 35
    legend = plot.plot_loss_curves(sweep({f"kind {i}": 3 * 1.3**i for i in range(12)})).get_legend()
    assert [text.get_text() for text in legend.get_texts()][:12] == [f"kind {i}" for i in range(12)]


@pytest.mark.parametrize(
    "medians",
    [{"gd": 50, "momentum": 20, "rmsprop": 8, "adam": 10}, {"stays": 5e3, "stays too": 6e3, "b": 30}],
    ids=len,
)
def test_names_beside_the_curves_do_not_overlap(medians):
    ax = draw(plot.plot_loss_curves(sweep(medians)))
    names = [text for text in ax.texts if text.get_text() in medians]
    assert len(names) == len(medians)
    frame = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in names]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_names_are_drawn_as_they_are_written():
    for label in (r"$\notmath$", "_first", "<b>&"):
        ds = sweep({label: 30, "adam": 10})
        for picture in PICTURES:
            draw(picture(ds))
        legend = plot.plot_survival(ds).get_legend().get_texts()
        assert legend[0].get_text().replace(r"\$", "$").startswith(label)


def points(classes=2) -> Dataset:
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2)).astype(np.float32)
    return Dataset(x, (np.arange(60) % classes).astype(np.int32), classes, "points")


def test_regions_are_the_hard_max_and_the_boundary_is_where_logits_meet():
    weights, bias = np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, -1.0]]), np.array([0.0, 0.1, -0.1])
    seen = []

    def predict(x):
        seen.append(x)
        return x @ weights.T + bias

    ax = draw(plot.plot_decision_regions(predict, points(3), resolution=50))
    [x] = seen
    assert (x.shape, x.dtype) == ((2500, 2), np.float32)
    mesh = ax.collections[0]
    np.testing.assert_array_equal(mesh.get_array().ravel(), (x @ weights.T + bias).argmax(axis=1))
    assert (x.min(axis=0) < points().x.min(axis=0)).all()
    assert (x.max(axis=0) > points().x.max(axis=0)).all()
    on_lines = np.concatenate([path.vertices for one in ax.collections[1:] for path in one.get_paths()])
    top_two = np.sort(on_lines @ weights.T + bias, axis=1)[:, 1:]
    # the lead over the others is piecewise linear, so interpolation errs only where three regions meet in one cell
    assert np.quantile(np.diff(top_two), 0.9) < 1e-6
    assert np.diff(top_two).max() < 4 * 2.2 / 49


def test_every_example_is_drawn_with_the_marker_of_its_class():
    data = points(3)
    ax = plot.plot_decision_regions(lambda x: np.zeros((len(x), 3)), data, resolution=5)
    for c in range(3):
        np.testing.assert_array_equal(line(ax, f"class {c}").get_xydata(), data.x[data.y == c])
    assert len({one.get_marker() for one in ax.lines}) == 3
    tints = [ax.collections[0].cmap(c) for c in range(3)]
    for tint, one in zip(tints, ax.lines, strict=True):
        assert min(tint[:3]) >= 0.65 - 1e-9  # pale, so that the points stand out
        assert np.argmax(tint[:3]) == np.argmax(matplotlib.colors.to_rgb(one.get_color()))


def test_excluded_classes_get_no_region():
    def predict(x):
        return np.stack([x[:, 0], -x[:, 0], np.full(len(x), -np.inf)], axis=1)

    ax = draw(plot.plot_decision_regions(predict, points(3), resolution=40))
    assert set(ax.collections[0].get_array().ravel()) == {0, 1}
    on_line = np.concatenate([path.vertices for one in ax.collections[1:] for path in one.get_paths()])
    np.testing.assert_allclose(on_line[:, 0], 0, atol=1e-6)  # float32 coordinates

    def nowhere_left(x):
        return np.stack([np.zeros(len(x)), np.where(x[:, 0] > 0, 5, -np.inf)], axis=1)

    ax = draw(plot.plot_decision_regions(nowhere_left, points(), resolution=40))
    on_line = np.concatenate([path.vertices for one in ax.collections[1:] for path in one.get_paths()])
    assert np.abs(on_line[:, 0]).max() < 2.4 / 39  # within the cell where the class begins


def test_regions_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match=r"dataset: expected inputs of shape \(n, 2\), got \(60, 3\)"):
        plot.plot_decision_regions(lambda x: x, points()._replace(x=np.zeros((60, 3), np.float32)))
    with pytest.raises(ValueError, match=r"predict: expected logits of shape \(100, 3\) without NaN, got shape"):
        plot.plot_decision_regions(lambda x: x, points(3), resolution=10)
    with pytest.raises(ValueError, match="without NaN, got NaN"):
        plot.plot_decision_regions(lambda x: x * np.nan, points(), resolution=10)
