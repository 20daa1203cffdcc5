"""The scoreboard: what it knows of each experiment, that it survives one that fails, and that faults turn it red."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments import gallery, registry, script
from experiments.claim import Claim
from jaxsoft import curvature, losses, models, optimizers, softmax
from jaxsoft.critical import search
from jaxsoft.optimizers import Optimizer

ROOT = Path(registry.__file__).parent.parent
FOUND = {e.name: e for e in registry.experiments()}


@pytest.mark.parametrize("kind", ["equal", "reported"])
def test_a_claim_of_equality(kind):
    measured = (-10.001, -10.0, -6.0, -5.999)  # 8 and a quarter of it to both sides
    assert [Claim("a", "b", -8.0, x, 0.25, kind).passed for x in measured] == [False, True, True, False]


@pytest.mark.parametrize("kind", ["at most", "reported at most"])
def test_a_claim_of_an_upper_bound(kind):
    assert [Claim("a", "b", -10.0, x, 0.0, kind).passed for x in (-1e9, -10.0, -9.9)] == [True, True, False]
    assert [Claim("a", "b", -10.0, x, 0.1, kind).passed for x in (-9.0, -8.9)] == [True, False]


@pytest.mark.parametrize("kind", ["at least", "reported at least"])
def test_a_claim_of_a_lower_bound(kind):
    assert [Claim("a", "b", 5.0, x, 0.0, kind).passed for x in (1e9, 5.0, 4.9)] == [True, True, False]


@pytest.mark.parametrize("kind", ["equal", "at most", "at least", "reported", "reported at most", "reported at least"])
def test_the_words_of_a_verdict(kind):
    passed, failed = Claim("a", "b", 0.0, 0.0, 0.0, kind), Claim("a", "b", 0.0, float("nan"), 9.0, kind)
    assert (passed.passed, failed.passed) == (True, False)
    known = ("reproduced", "not reproduced") if "reported" in kind else ("holds", "does not hold")
    assert (passed.verdict, failed.verdict) == known


def test_a_verdict_cannot_be_set_and_a_wrong_kind_is_told():
    made = Claim("a", "b", 1.0, 2.0, 0.0)
    with pytest.raises(AttributeError):
        made.passed = True  # pyrefly: ignore[read-only]
    with pytest.raises(ValueError, match=r"kind: expected one of equal, .*, got atmost"):
        Claim("a", "b", 1.0, 2.0, 0.0, "atmost")  # pyrefly: ignore[bad-argument-type]
    for tolerance in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"tolerance: expected a finite number >= 0, got {tolerance}"):
            replace(made, tolerance=tolerance)
    for expected in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"expected: expected a finite number, got {expected}"):
            replace(made, expected=expected)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (Claim("a", "b", 0.5, 0.5, 0.03), "0.5 ± 3%"),
        (Claim("a", "b", 4000, 4000, 0.00025), "4000 ± 0.00025 relative"),
        (Claim("a", "b", -2, -2, 1e-4), "-2 ± 0.0001 relative"),
        (Claim("a", "b", 0, 0, 0.1), "0"),  # a tenth of nothing
        (Claim("a", "b", 0.05, 0.01, 0, "at most"), "≤ 0.05"),
        (Claim("a", "b", -2, 0, 0, "reported at least"), "≥ -2"),
    ],
)
def test_what_is_expected_in_words(claim, words):
    assert claim.wanted == words


def test_the_registry_finds_what_runs_as_a_script_and_nothing_else(tmp_path):
    assert {"escape_law", "share_of_minima"} <= set(FOUND)
    assert not {"claim", "script", "science", "registry", "gallery"} & set(FOUND)
    (tmp_path / "broken.py").write_text('"""Why?"""\nimport nowhere\nif __name__:\n    script.run("broken")\n')
    (tmp_path / "slip.py").write_bytes(b'"""Why?"""\ndef x(:\n    script.run("slip")\n')
    (tmp_path / "bytes.py").write_bytes(b'"""Why?\xff"""\n\0\n    script.run("bytes")\n')
    known = {"bytes": "bytes", "broken": "Why?", "slip": "slip"}  # the name where there is no docstring to read
    assert registry.experiments(tmp_path) == [registry.Experiment(n, q, "", {}) for n, q in sorted(known.items())]


@pytest.mark.parametrize("name", FOUND)
def test_every_experiment_says_what_the_scoreboard_needs(name):
    settings, told = script.settings(import_module(f"experiments.{name}")), FOUND[name]
    assert "quick" in settings, f"experiments/{name}.py: expected a Config named QUICK"
    assert told.question, f"experiments/{name}.py: expected a docstring that begins with the question"
    assert told.finding, f"experiments/{name}.py: expected a paragraph 'What comes out: ...' in the docstring"
    for option in ["", *(f"--{s}" for s in settings if s not in ("full", "tiny"))]:
        about = (
            f"experiments/{name}.py: expected the line 'python -m experiments.{name} {option} # TIME', as 40 s or 3 min"
        )
        assert option in told.times, about
        assert registry.seconds(told.times[option]) > 0


def test_all_quick_settings_take_twenty_minutes_at_most():
    assert sum(registry.seconds(e.times["--quick"]) for e in FOUND.values()) <= 20 * 60


def test_the_page_of_the_experiments_is_the_docstrings():
    written = (ROOT / "experiments/README.md").read_text()
    assert written == registry.readme(), "run: python -m experiments.registry > experiments/README.md"
    assert written.count("\n| ") == len(FOUND) + 1


def test_a_time_is_a_number_and_a_unit():
    assert [registry.seconds(t) for t in ("9 s", "1.5 min", "2 h")] == [9, 90, 7200]
    with pytest.raises(ValueError, match="time: expected a number of s, min or h, got 'a while'"):
        registry.seconds("a while")


def test_a_result_depends_on_what_its_imports_import(tmp_path):
    files = {
        "one": "from jaxsoft import data\nfrom experiments.two import LIMIT\n",
        "two": "def late():\n    from . import three\n",
        "three": "import experiments.four as short, experiments.one\n", "four": "", "five": "import one\n", "data_": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert {path.stem for path in script.sources(tmp_path / "one.py")} == {"one", "two", "three", "four"}
    assert {path.stem for path in script.sources(tmp_path / "four.py")} == {"four"}
    told = script.identity(script, None)
    assert told["optax"] == optax.__version__
    assert {"python", "jax", "jaxlib", "flax", "numpy", "scipy", "scikit-learn"} <= set(told)


def run(*arguments: str, module: str = "science", timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize(
    ("arguments", "module", "word"),
    [
        (["--quik"], "escape_law", "--quik"),
        (["--quick", "--tiny"], "escape_law", "not allowed with"),
        (["--out", "Makefile"], "escape_law", "--out: expected a folder that can be written, got Makefile"),
        pytest.param(
            ["--out", "/proc"],
            "escape_law",
            "--out: expected a folder that can be written, got /proc",
            marks=pytest.mark.skipif(not Path("/proc").exists(), reason="a folder that no one can write to"),
        ),
        (["nothing"], "science", "NAME: expected one of autoencoder_critical_points, "),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(arguments, module, word):
    done = run(*arguments, module=module)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
    assert done.stdout == ""


SCRIPT = '''"""{question}

    python -m experiments.{name} --quick  # 1 s

What comes out: {finding}
"""
import time
from dataclasses import dataclass
from matplotlib.figure import Figure
from experiments import script
from experiments.claim import Claim

@dataclass(frozen=True)
class Config:
    measured: float = 3.0

QUICK = Config(2.0)

def main(config, progress=False):
    {body}
    return config.measured

def claims(results, config):
    return [Claim("two", "theory", 2.0, results, 0), Claim("a limit", "a paper", 1.0, float("inf"), 0, "reported")]

def plot(results, config):
    return Figure().add_subplot()

if __name__ == "__main__":
    script.run("{name}", Config(), main, claims, plot)
'''


@pytest.fixture
def added(monkeypatch, tmp_path):
    """Adds an experiment to the package, in a folder that its processes find too."""
    package = tmp_path / "experiments"
    package.mkdir()
    for path in (ROOT / "experiments").glob("*.py"):
        if path.stem in ("__init__", "claim", "script", "registry", "gallery", "science"):
            (package / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def add(name: str, body: str = "pass", question: str = "Is it two?", finding: str = "it is two.") -> None:
        (package / f"{name}.py").write_text(SCRIPT.format(name=name, body=body, question=question, finding=finding))

    return tmp_path, add


def board(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    command = [sys.executable, "-m", "experiments.science", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return done, json.loads((folder / "results/claims.json").read_text())


def change(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_one_that_fails_is_a_row_and_what_is_done_is_kept(added):
    folder, add = added
    add("good", question="Is 1 < 2 & <b>two</b>?")
    add("bad", body='raise ValueError("it was three,\\nnot two")')
    add("lost", body="import os; os.kill(os.getpid(), 9)")
    for name in ("unset", "slip", "leaves", "silent"):
        add(name)
    change(folder / "experiments/unset.py", "QUICK", "HASTY")
    change(folder / "experiments/slip.py", "def main(", "def main(:")
    change(folder / "experiments/leaves.py", "import time", "import sys; sys.exit('nope')")
    change(folder / "experiments/silent.py", "return [", "return [][:0] and [")
    done, kept = board(folder)
    assert done.returncode == 1
    rows = {row["experiment"]: row for row in kept["experiments"]}
    assert rows["bad"]["error"] == "ValueError: it was three, not two"
    assert rows["slip"]["error"].startswith("SyntaxError: ")
    assert rows["leaves"]["error"] == "SystemExit: nope"
    assert rows["silent"]["error"] == "ValueError: claims: expected one at least, got none"
    assert "SIGKILL" in rows["lost"]["error"]
    assert rows["unset"]["error"] == "QUICK: expected a Config of this name in the module, got none"
    first, second = rows["good"]["claims"]
    assert (first["passed"], first["verdict"]) == (True, "holds")
    assert (second["measured"], second["verdict"]) == ("inf", "not reproduced")
    for text in ("good_quick", "ValueError: it was three, not two", "not reproduced", "1 of 2 claims hold; 0 do not"):
        assert text in done.stdout
    page = (folder / "results/science.html").read_text()
    assert page.count("<img ") == 1
    assert "Is 1 &lt; 2 &amp; &lt;b&gt;two&lt;/b&gt;?" in page
    assert "python -m experiments.good --quick" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere

    for name in ("bad", "lost", "unset", "slip", "leaves", "silent"):
        (folder / f"experiments/{name}.py").unlink()
    done, again = board(folder)
    assert done.returncode == 0
    assert "(kept)" in done.stderr
    assert again["experiments"] == [rows["good"]]
    with (folder / "experiments/good.py").open("a") as file:
        file.write("# another version\n")
    done, again = board(folder)
    assert "(kept)" not in done.stderr
    done, full = board(folder, "--full")
    assert done.returncode == 1  # 3 is not 2
    assert full["experiments"][0]["claims"][0]["verdict"] == "does not hold"


def test_one_by_name_leaves_the_others_on_the_page(added):
    folder, add = added
    add("one")
    add("two")
    change(folder / "experiments/two.py", "import time\n", "from experiments.shared import LIMIT\nimport time\n")
    (folder / "experiments/shared.py").write_text("LIMIT = 1\n")
    board(folder)
    for name in ("one", "two"):
        done, kept = board(folder, name)
        assert {row["experiment"] for row in kept["experiments"]} == {"one", "two"}
        assert "1 of 2 claims hold" in done.stdout  # of the one that was asked for
        assert kept["summary"].startswith("2 of 4 claims hold")
    assert (folder / "results/science.html").read_text().count("<img ") == 2
    (folder / "experiments/shared.py").write_text("LIMIT = 2\n")  # the result of the second is of the past
    assert [row["experiment"] for row in board(folder, "one")[1]["experiments"]] == ["one"]


def test_what_failed_is_first_on_the_page_and_reports_come_after_faults():
    def entry(name: str, figure: bytes | None, *claims: Claim) -> gallery.Entry:
        return gallery.Entry(registry.Experiment(name, f"{name}?", "", {}), "", claims, 1.0, f"words of {name}", figure)

    page = gallery.build(
        [
            entry("fine", b"", Claim("right", "b", 1, 1, 0), Claim("a report", "b", 1, 2, 0, "reported")),
            entry("faulty", b"", Claim("a fault", "b", 1, -1e-7, 0)),
            entry("failed", None),
        ],
        "all",
    )
    order = ["What failed", "words of failed", "What does not hold", "a fault", "What is not reproduced", "a report",
             "All experiments", "words of fine", "right"]  # fmt: skip
    places = [page.index(text, page.index("</p>")) for text in order]
    assert places == sorted(places)
    assert "What failed" not in gallery.build([entry("fine", b"", Claim("right", "b", 1, 1, 0))], "all")
    heads = re.findall(r'<th scope="col">(.*?)</th>', page)[:5]
    assert heads == ["claim", "verdict", "expected", "measured", "source"]  # the verdict is seen on a small screen
    unbroken = re.search(r"([^}]*)\{ white-space: nowrap; \}", page)
    assert unbroken is not None
    assert ".claims td:not(:last-child)" in unbroken[1]  # no -1e-07 in two lines


def interrupted(folder: Path, module: str) -> tuple[int, str]:
    """Exit code and output of a module that gets Ctrl-C when it has made the file ``begun``."""
    command = [sys.executable, "-m", f"experiments.{module}"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        if (folder / "begun").exists():
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    return process.wait(timeout=60), process.communicate()[0]


WAIT = "open('begun', 'w'); time.sleep(600)"


def test_ctrl_c_keeps_what_is_done(added):
    folder, add = added
    add("a_first")
    add("b_second", body=WAIT)
    code, output = interrupted(folder, "science")
    assert code == 130
    assert "1 experiments were not reached: the same command goes on." in output
    kept = json.loads((folder / "results/claims.json").read_text())
    assert [row["experiment"] for row in kept["experiments"]] == ["a_first"]


@pytest.mark.parametrize("module", ["science", "slow"])
def test_ctrl_c_before_there_is_anything_to_keep_is_one_line(added, module):
    folder, add = added
    add("slow", body=WAIT)
    if module == "science":  # while it imports
        change(folder / "experiments/slow.py", "import time\n", f"import time; {WAIT}\n")
    assert interrupted(folder, module) == (130, "jaxsoft: interrupted\n")


def test_a_sweep_says_how_far_it_came_in_one_line(added):
    folder, add = added
    add("swept", body="from jaxsoft.signals import Interrupted; raise Interrupted('2 of 3 runs are done', 2)")
    command = [sys.executable, "-m", "experiments.swept"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "2 of 3 runs are done\n")


def test_the_times_in_the_docstrings_give_the_cheap_half():
    times = sorted(registry.seconds(e.times["--quick"]) for e in FOUND.values())
    assert sum(times[: -(-len(times) // 2)]) <= 5 * 60


# Faults, each planted in the library. Without them all claims of these experiments hold at this size: see
# test_experiments and test_lecture.


def optimizer(name, make):
    return lambda patch: patch.setitem(
        optimizers.OPTIMIZERS, name, Optimizer(make, optimizers.OPTIMIZERS[name].defaults)
    )


def changed(module, name, change):
    """The function replaced by ``change(function)``."""
    return lambda patch: patch.setattr(module, name, change(getattr(module, name)))


def diagonal(z):
    return jnp.vectorize(jnp.diag, signature="(c)->(c,c)")(jax.nn.softmax(z))


def more(inertia):
    return lambda *a, **k: replace(found := inertia(*a, **k), negative=found.negative + 1)


FAULTS = {
    "the gradient of the softmax has the wrong sign": (
        "escape_against_scale", changed(losses, "_difference", lambda right: lambda *a: -right(*a))
    ),
    "momentum 0.8 in place of 0.9": (
        "escape_against_scale", optimizer("momentum", lambda eta, h: optax.sgd(eta, momentum=0.8))
    ),
    "the index is off by one": ("zero_saddle_index", changed(curvature, "inertia", more)),
    "the index is off by one, at a critical point": ("baldi_hornik", changed(curvature, "inertia", more)),
    "a wide band hides the small curvatures": (
        "zero_saddle_index", changed(curvature, "inertia", lambda right: lambda *a: right(*a, band=1.0))
    ),
    "the loss counts every example twice": (
        "escape_against_scale",
        changed(losses, "cross_entropy_and_grad", lambda right: lambda *a: jax.tree.map(lambda x: 2 * x, right(*a))),
    ),
    "the initial weights are squared in scale": (
        "escape_against_scale",
        changed(models, "mlp", lambda right: lambda sizes, scale: right(sizes, scale=scale**2)),
    ),
    "Nesterov does not look ahead": (
        "escape_law", optimizer("nesterov", lambda eta, h: optax.sgd(eta, momentum=h.momentum))
    ),
    "the learning rate is 3 % too large": ("escape_law", optimizer("gd", lambda eta, h: optax.sgd(1.03 * eta))),
    "RMSProp has its ε on the other side of the root": (
        "escape_law",
        optimizer("rmsprop", lambda eta, h: optax.rmsprop(eta, h.decay, eps=h.eps, eps_in_sqrt=not h.eps_in_sqrt)),
    ),
    "all runs draw the same key": ("escape_law", changed(jax.random, "fold_in", lambda right: lambda key, data: key)),
    "the Jacobian of the softmax lacks - p pᵀ": (
        "convex_softmax_regression", changed(losses, "jacobian", lambda _: diagonal)
    ),
    "every end of a search is called critical": (
        "no_local_optima_in_softmax_regression",
        changed(search, "judge", lambda right: lambda *a: right(*a)._replace(code=jnp.int32(search.CRITICAL))),
    ),
    "the least curvature is 5 % too deep": (
        "committee_plateau", changed(curvature, "hessian", lambda right: lambda *a: 1.05 * right(*a))
    ),
    "Adam's β₁ is 0.8 in place of 0.9": (
        "lecture_saddle", optimizer("adam", lambda eta, h: optax.adam(eta, b1=0.8, b2=h.decay, eps=h.eps))
    ),
    "Adam's β₂ is 0.99 in place of 0.999": (
        "lecture_saddle", optimizer("adam", lambda eta, h: optax.adam(eta, b1=h.momentum, b2=0.99, eps=h.eps))
    ),
    "Adam's learning rate is 10 % too large": (
        "lecture_saddle", optimizer("adam", lambda eta, h: optax.adam(1.1 * eta, h.momentum, h.decay, h.eps))
    ),
    "RMSProp's decay is 0.8 in place of 0.9": (
        "lecture_saddle", optimizer("rmsprop", lambda eta, h: optax.rmsprop(eta, 0.8, eps=h.eps))
    ),
    "the formula of the Jacobian has the wrong sign": (
        "lecture_softmax_layer", changed(softmax, "jacobian", lambda right: lambda z: -right(z))
    ),
    "the hard max has the wrong sign": (
        "lecture_softmax_layer", changed(softmax, "hardmax", lambda right: lambda z: -right(z))
    ),
    "the formula of the loss's gradient has the wrong sign": (
        "lecture_loss_and_backprop", changed(losses, "cross_entropy_grad", lambda right: lambda *a: -right(*a))
    ),
}  # fmt: skip
SINGLE = ("escape_against_scale",)  # the others run in float64


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_the_scoreboard_red(fault, monkeypatch, quick_compilation):
    name, plant = FAULTS[fault]
    plant(monkeypatch)
    experiment = import_module(f"experiments.{name}")
    with jax.enable_x64(name not in SINGLE):
        made = experiment.claims(experiment.main(experiment.TINY), experiment.TINY)
    assert not all(claim.passed for claim in made if not claim.reported)
