"""The table's numbers are those of the runs, and the page is whole, escaped and needs nothing else."""

from __future__ import annotations

import base64
import html.parser
import io
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from jaxsoft import report, store, sweep
from jaxsoft.process import CONVERGED, DIVERGED, MAX_STEPS, Info, Process

PLAIN = math.log(4)  # four classes: a run has left the plateau below 0.9 ln 4 = 1.248
STEP = np.arange(0, 11)


def runs_of(left, end, broke=None, accuracy=None):
    """One kind: when each run leaves (99: never), its final loss, the step at which it broke, its accuracy."""
    left, end = np.array(left), np.array(end)
    broke = np.array(broke if broke is not None else [99] * len(left))
    return left, end, broke, np.array(accuracy if accuracy is not None else np.linspace(0.5, 0.9, len(left)))


def example() -> xr.Dataset:
    """Three kinds of four runs. gd: left at 2, 4, 6, never. adam: left at 1, 1, broke at 5, 7. sgd: none reached."""
    gd = runs_of([2, 4, 6, 99], [0.1, 0.2, 0.3, PLAIN], accuracy=[0.9, 0.8, 0.7, 0.25])
    adam = runs_of([1, 1, 99, 99], [0.02, 0.04, 7.0, 7.0], broke=[99, 99, 5, 7], accuracy=[0.95, 0.96, 0.5, 0.5])
    sgd = runs_of([99] * 4, [np.nan] * 4, accuracy=[np.nan] * 4)
    left, end, broke, accuracy = (np.stack(parts) for parts in zip(gd, adam, sgd, strict=True))
    loss = np.where(left[..., None] <= STEP, end[..., None], PLAIN)
    loss = np.where(broke[..., None] <= 10, 7.0, loss)
    loss[2] = np.nan
    dims = ("optimizer", "run")
    status = np.where(broke <= 10, DIVERGED, MAX_STEPS).astype(np.int8)
    status[0, 0] = CONVERGED
    committed = np.ones((3, 4), bool)
    committed[2], status[2] = False, 0
    wide = np.broadcast_to(accuracy[..., None], loss.shape)
    return xr.Dataset(
        {
            "loss": ((*dims, "step"), loss),
            "accuracy": ((*dims, "step"), wide),
            "test_accuracy": ((*dims, "step"), wide - 0.1),
            "status": (dims, status),
            "steps": (dims, np.minimum(broke, 10)),
            "committed": (dims, committed),
        },
        coords={
            "optimizer": ["gd", "adam", "sgd"],
            "run": np.arange(4),
            "step": STEP,
            "learning_rate": ("optimizer", [0.5, 0.01, np.nan]),
        },
        attrs={
            "num_classes": 4,
            "seed": 3,
            "config": json.dumps({"data": "<b>&'\"", "nested": {"hidden": [32, 16]}}),
            "versions": {"jax": "0.0.1"},
            "program": json.dumps({"gd": "0123abcd"}),
            "device": "cpu",
            "revision": "f00",
        },
    )


def printed(rows, **options) -> str:
    file = io.StringIO()
    report.print_table(rows, Console(file=file, **options))
    return file.getvalue()


def test_rows_hold_the_hand_computed_numbers():
    gd, adam, sgd = report.summary(example())
    assert (gd.label, gd.runs, gd.learning_rate, gd.num_classes, gd.held_out) == ("gd", 4, 0.5, 4, True)
    assert gd.median_escape == 4  # 3/4 are left after 2, 1/2 after 4
    assert gd.watched == 10
    assert gd.never_left == 1 / 4
    assert gd.final_loss == pytest.approx((0.2 + 0.3) / 2, rel=1e-12)
    assert gd.accuracy == pytest.approx((0.8 + 0.7) / 2 - 0.1, rel=1e-12)
    assert gd.diverged == 0
    # adam: half left at 1; the runs that broke are neither in the medians nor among those that stayed
    assert (adam.median_escape, adam.watched, adam.never_left, adam.diverged) == (1, 7, 0, 1 / 2)
    assert adam.final_loss == pytest.approx(0.03, rel=1e-12)
    assert adam.accuracy == pytest.approx(0.855, rel=1e-12)
    assert (sgd.runs, sgd.learning_rate) == (0, None)
    assert np.isnan([sgd.median_escape, sgd.never_left, sgd.final_loss, sgd.accuracy, sgd.diverged]).all()


def test_all_runs_pooled():
    [row] = report.summary(example(), by=None)
    assert (row.label, row.runs, row.learning_rate) == ("all runs", 8, None)
    # left at 1, 1, 2, 4, 6 of 8, broke at 5 and 7: 6/8, 5/8, then 4/8 after 4
    assert row.median_escape == 4
    assert (row.never_left, row.diverged) == (1 / 8, 2 / 8)
    assert row.final_loss == pytest.approx((0.1 + 0.2) / 2, rel=1e-12)  # of 0.02, 0.04, 0.1, 0.2, 0.3, ln 4


def test_training_accuracy_where_nothing_was_held_out():
    row = report.summary(example().drop_vars("test_accuracy"))[0]
    assert (row.held_out, row.accuracy) == (False, pytest.approx(0.75, rel=1e-12))
    assert report.table([row])[0][6] == "median training accuracy"


def test_one_learning_rate_is_told_however_it_was_given():
    ds = example()
    wide = ds.drop_vars("learning_rate").expand_dims(learning_rate=[0.1, 1.0])
    assert {row.learning_rate for row in report.summary(wide)} == {None}
    assert [row.learning_rate for row in report.summary(wide, by="learning_rate")] == [0.1, 1.0]
    assert [row.learning_rate for row in report.summary(wide.isel(learning_rate=[1]))] == [1.0, 1.0, None]
    assert [row.learning_rate for row in report.summary(wide.isel(learning_rate=0))] == [0.1, 0.1, 0.1]


def test_cells_are_the_numbers_in_words():
    heads, lines = report.table(report.summary(example()))
    assert dict(zip(heads, lines[0], strict=True)) == {
        "": "gd",
        "learning rate": "0.5",
        "runs": "4",
        "median steps to leave the plateau": "4",
        "never left": "25.0 %",
        "median final loss": "0.250",
        "median held-out accuracy": "65.0 %",
        "diverged": "0 %",
    }
    assert lines[2] == ["sgd", "-", "0", "-", "-", "-", "-", "-"]


def test_columns_of_which_nothing_is_known_are_left_out():
    bare = example().drop_vars(["test_accuracy", "accuracy", "learning_rate"]).drop_attrs()
    heads, _ = report.table(report.summary(bare))
    assert heads == ["", "runs", "median final loss", "diverged"]
    assert "plateau" not in report.caption(report.summary(bare))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.25, "25.0 %"), (1e-5, "< 0.1 %"), (1 - 1e-5, "> 99.9 %"), (0.0005, "0.1 %")],
)
def test_a_share_never_looks_like_none_or_all_when_it_is_not(share, text):
    row = report.summary(example())[0]._replace(diverged=share)
    heads, [cells] = report.table([row])
    assert dict(zip(heads, cells, strict=True))["diverged"] == text


def test_a_median_that_was_not_reached_is_later_than_the_last_step_watched():
    row = report.summary(example())[0]._replace(median_escape=math.inf, watched=12_000.0)
    heads, [cells] = report.table([row])
    assert dict(zip(heads, cells, strict=True))["median steps to leave the plateau"] == "> 12,000"


@pytest.mark.parametrize("width", [20, 80, 300])
def test_a_table_that_is_not_for_a_terminal_is_plain_and_complete(width):
    ds = example().assign_coords(optimizer=["[bold]gd[/bold] with a name that takes more room than there is", "b", "c"])
    rows = report.summary(ds)
    text = printed(rows, width=width)
    for line in report.table(rows)[1]:
        assert re.search(r"\s+".join(map(re.escape, line)), text), line
    assert "\x1b" not in text
    assert "…" not in text
    words = " ".join(text.split())
    assert report.caption(rows) in words
    for head in report.table(rows)[0]:
        assert all(word in words for word in head.split())


def test_a_table_for_a_file_that_knows_only_ascii():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report.print_table(report.summary(example()), Console(file=file))
    file.seek(0)
    assert "gd" in file.read()


def test_a_terminal_of_80_columns_splits_no_word_and_keeps_its_width():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, no_color=True)
    rows = report.summary(example())
    report.print_table(rows, console)
    text = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert console.width == 80
    assert max(map(len, text.splitlines())) <= 80
    words = set(text.split())
    assert {word for head in report.table(rows)[0] for word in head.split()} <= words


def test_the_caption_says_what_leaving_means():
    text = report.caption(report.summary(example()))
    assert f"{0.9 * PLAIN:.3f}" in text
    assert f"ln C = {PLAIN:.3f}" in text


class Page(html.parser.HTMLParser):
    """Collects what a page holds, and checks that its elements are properly nested."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.attributes if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of the example, for tests that only read it."""
    return report.write(example(), tmp_path_factory.mktemp("example") / "deep" / "report")


def page_of(ds, folder, **options) -> Page:
    return Page(report.write(ds, folder, **options)[-1].read_text(encoding="utf-8"))


def test_the_page_holds_every_figure_and_needs_nothing_else(written):
    names = ["loss_curves", "survival", "final_loss", "final_accuracy"]
    assert [path.name for path in written] == [f"{n}.{k}" for n in names for k in ("png", "svg")] + ["report.html"]
    assert sorted(path.name for path in written) == sorted(path.name for path in written[0].parent.iterdir())
    text = written[-1].read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "http" not in text.lower()
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert len(page.all("title")) == len(page.all("h1")) == 1
    assert not page.all("script") + page.all("link")
    images = page.all("img")
    prefix = "data:image/svg+xml;base64,"
    for image, name in zip(images, names, strict=True):
        assert image["alt"]
        assert image["src"].startswith(prefix)
        svg = base64.b64decode(image["src"].removeprefix(prefix), validate=True)
        assert svg == (written[0].parent / f"{name}.svg").read_bytes()
    assert not [attrs for _, attrs in page.attributes if "href" in attrs]
    ids = [attrs["id"] for _, attrs in page.attributes if "id" in attrs]
    assert sorted(ids) == sorted(set(ids))
    for path in written[:-1:2]:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_page_tells_the_numbers_and_where_they_come_from(written):
    page = Page(written[-1].read_text(encoding="utf-8"))
    cells = [text.strip() for text in page.text if text.strip()]
    rows = report.summary(example())
    for line in report.table(rows)[1]:
        start = cells.index(line[0])
        assert cells[start : start + len(line)] == line
    assert report.caption(rows) in cells
    everything = " ".join(cells)
    assert "4 runs were not reached yet" in everything
    assert f"{PLAIN:.3f}" in everything
    ended = cells[cells.index("How the runs ended") + 2 :]  # a table's caption comes first
    assert ended[:5] == ["optimizer", "max_steps", "diverged", "converged", "not reached"]
    assert ended[5:20] == ["gd", "3", "0", "1", "0", "adam", "2", "2", "0", "0", "sgd", "0", "0", "0", "4"]
    facts = dict(itertools.pairwise(cells))
    assert facts["seed"] == "3"
    assert facts["config.data"] == "<b>&'\""
    assert facts["config.nested.hidden"] == "32, 16"
    assert facts["versions.jax"] == "0.0.1"
    assert facts["device"] == "cpu"
    assert facts["revision"] == "f00"
    assert "0123abcd" not in everything


def test_the_page_says_what_is_pooled_and_tells_the_configuration_once(tmp_path):
    ds = one_kind().expand_dims(scale=[0.1, 1.0]).assign_attrs(config=json.dumps({"seed": 7, "model": "mlp"}), seed=7)
    page = page_of(ds, tmp_path)
    everything = " ".join(page.text)
    assert "scale (2) × optimizer (1) × run (4)" in everything
    assert "A row or a curve takes all values of scale and run together." in everything
    assert page.text.count("7") == 1
    assert "config.seed" not in page.text
    assert "config.model" in page.text


def test_every_text_is_escaped(tmp_path):
    evil = "<b>&\"'</b><script>alert(1)</script>"
    ds = example().assign_coords(optimizer=[evil, "adam", "sgd"]).rename(optimizer="a<b").assign_attrs({evil: evil})
    page = page_of(ds, tmp_path, by="a<b")
    assert not page.all("script") + page.all("b")
    assert page.text.count(evil) >= 3
    assert "a<b" in page.text


@pytest.mark.parametrize(
    ("gone", "attrs", "left"),
    [
        (["accuracy", "test_accuracy"], {"num_classes": 4}, ["loss_curves", "survival", "final_loss"]),
        ([], {}, ["loss_curves", "final_loss", "final_accuracy"]),
        (["loss"], {"num_classes": 4}, ["final_accuracy"]),
        (["loss", "accuracy", "test_accuracy"], {}, []),
    ],
)
def test_figures_without_records_are_left_out(tmp_path, gone, attrs, left):
    ds = example().drop_vars(gone).drop_attrs().assign_attrs(attrs)
    written = report.write(ds, tmp_path)
    assert [path.stem for path in written if path.suffix == ".svg"] == left
    assert len(Page(written[-1].read_text(encoding="utf-8")).all("img")) == len(left)


def test_the_same_sweep_gives_the_same_bytes(written, tmp_path):
    for a, b in zip(written, report.write(example(), tmp_path), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    assert b"<dc:date>" not in (tmp_path / "survival.svg").read_bytes()


def one_kind() -> xr.Dataset:
    return example().isel(optimizer=[0])[["loss", "status", "steps", "committed"]].drop_attrs()


def test_a_crash_leaves_the_page_before_and_no_half_one(tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in report.write(one_kind(), tmp_path)}

    def crash(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", crash)
    with pytest.raises(OSError, match="no space left"):
        report.write(one_kind().assign_attrs(seed=4), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_reported_is_refused_before_anything_is_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="folder: expected a folder, got the file"):
        report.write(example(), file)
    empty = example().assign(committed=lambda ds: ds["committed"] & False)
    with pytest.raises(ValueError, match="dataset: expected at least one committed run, got none"):
        report.write(empty, tmp_path / "new")
    with pytest.raises(ValueError, match="dataset: expected the result of a sweep"):
        report.summary(xr.Dataset({"loss": ("step", [1.0])}))
    with pytest.raises(ValueError, match="by: expected one of optimizer, run, got 'scale'"):
        report.write(example(), tmp_path / "new", by="scale")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_run_alone_makes_a_report(tmp_path):
    ds = example().isel(optimizer=0, run=1, drop=True)
    [row] = report.summary(ds)
    assert (row.label, row.runs, row.median_escape, row.final_loss) == ("all runs", 1, 4, 0.2)
    page = page_of(ds, tmp_path)
    assert "1 training run" in page.text


def test_a_sweep_of_the_engine_makes_the_same_report_from_memory_and_from_disk(tmp_path):
    """L(t) = ln 3 · rate^max(0, t - 2): known losses through the whole way of the data."""

    def process(optimizer, rate):
        def describe(t):
            loss = math.log(3) * rate ** jnp.maximum(t - 2, 0)
            return Info(jnp.zeros((), jnp.int32), {"loss": loss}, {})

        return Process(lambda key: jnp.zeros(()), lambda t: (t + 1, describe(t)))

    axes = {"optimizer": {"slow": {"rate": 0.95}, "fast": {"rate": 0.5}}, "run": sweep.Seeds(3)}
    options = {"seed": 0, "steps": 8, "config": {"num_classes": 3}}
    memory = sweep.run(process, axes, **options)
    sweep.run(process, axes, out=tmp_path / "run", **options)
    disk = store.load(tmp_path / "run")
    slow, fast = report.summary(disk)
    assert (slow.median_escape, fast.median_escape) == (5, 3)  # 0.95^3 = 0.857 and 0.5 are the first below 0.9
    assert slow.final_loss == pytest.approx(math.log(3) * 0.95**6, rel=1e-6)
    assert repr(report.summary(memory)) == repr([slow, fast])  # NaN (no accuracy) is not equal to itself
    pictures = [[p.read_bytes() for p in report.write(ds, tmp_path / n)[:-1]] for ds, n in ((memory, "a"), (disk, "b"))]
    assert pictures[0] == pictures[1]


def test_reading_results_needs_no_jax():
    code = "import sys, jaxsoft.report; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
