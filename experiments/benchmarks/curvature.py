"""How long do eigenvalues and the index of a Hessian take, here and with other libraries, at equal accuracy?

    pip install '.[data,bench]'
    python -m experiments.benchmarks.curvature

The five largest eigenvalues, the five most negative, all of them, and the index, of two softmax nets in float64 with
the same data and the same parameters for every tool: 10-5-10 (115 parameters, 500 digits, 10 principal components) and
64-32-10 (2,410 parameters, 1,797 digits); for the small one also at 1,000 points. All tools run in one process, their
repeats in turn, so that what else the machine does hits all alike: read the results as ratios.

Each tool gets, before its time is taken, the least effort (tolerance or depth) out of a list with which it is accurate.
The accuracy is the largest of ‖H v - λ v‖ and the distance of λ from the eigenvalue that was meant, over max |λ|, both
from a dense Hessian by plain automatic differentiation. What misses ``tol`` with its greatest effort is "not converged"
and no best peer. Without eigenvectors (all eigenvalues) only the distance is there. An index is the number of
eigenvalues below -√ε max |λ|; only a certified one comes with a proof. ``jax.hessian`` is no library of its own but
what one would write without any. Cold is the first call of a fresh solver with compilation. Where a tool does not take
many points at once, it runs at a few of them, one after the other, and the time is multiplied; the table says so.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA

from experiments.benchmarks.timing import in_turn, missing, seconds, spread, versions
from jaxsoft import curvature, data, models, problem, process, sweep

LARGEST, LOWEST, SPECTRUM, INDEX = "five largest", "five most negative", "all eigenvalues", "index"
TASKS = (LARGEST, LOWEST, SPECTRUM, INDEX)
NETS = {"10-5-10": ((10, 5, 10), 500), "64-32-10": ((64, 32, 10), 1797)}
BLOCK = 64  # columns of a Hessian at once
BAND = math.sqrt(np.finfo(np.float64).eps)  # relative to max |λ|


@dataclass(frozen=True)
class Config:
    """cases: net and number of points. peer_points: how many of many points a tool without batches runs at.

    tol: relative residual at which a pair counts as converged. least_time: a repeat goes on for so many seconds (and
    its time is the mean of its calls). patience: a single call that takes longer, in seconds, is not repeated.
    """

    cases: tuple[tuple[str, int], ...] = (("10-5-10", 1), ("64-32-10", 1), ("10-5-10", 1000))
    tasks: tuple[str, ...] = TASKS
    tools: tuple[str, ...] = ("jaxsoft", "curvlinops", "hessian-eigenthings", "pyhessian", "matfree", "jax.hessian")
    peer_points: int = 10
    repeats: int = 5
    least_time: float = 0.05
    patience: float = 10.0
    k: int = 5
    tol: float = 1e-6
    threads: int = 2
    seed: int = 0


class Found(NamedTuple):
    """Of n points: values (n, k) ascending, vectors (n, P, k) or None; or counts (n,) and whether they are proven."""

    values: np.ndarray | None = None
    vectors: np.ndarray | None = None
    index: np.ndarray | None = None
    certified: np.ndarray | None = None


class Setting(NamedTuple):
    """A net on its data, as a function of the flat parameters (P,), and the same for torch."""

    sizes: tuple[int, ...]
    dataset: data.Dataset
    loss: Callable[[Any], jax.Array]
    unravel: Callable[[jax.Array], Any]
    thetas: np.ndarray
    k: int
    threads: int

    def flat(self, theta: jax.Array) -> jax.Array:
        return self.loss(self.unravel(theta))


Solve = Callable[[np.ndarray], Found]  # of points (n, P)


@dataclass(frozen=True)
class Tool:
    """make: a solver for a task with an effort, or None where the tool has none. batched: takes many points at once."""

    modules: tuple[str, ...]
    make: Callable[[Setting, str, float], Solve | None]
    efforts: Callable[[Setting, str], Sequence[float]] = lambda setting, task: (0.0,)
    batched: bool = False


@dataclass(frozen=True)
class Row:
    """Seconds for all points of one case; ``error`` is NaN for an index, ``calls`` says what was multiplied."""

    case: str
    task: str
    tool: str
    cold: float
    warm: tuple[float, ...]
    calls: str
    error: float
    verdict: str
    good: bool

    @property
    def median(self) -> float:
        return float(np.median(self.warm))


# The nets and what is true of them


def small_digits(examples: int, components: int) -> data.Dataset:
    """The first principal components of some handwritten digits, standardised."""
    whole = data.digits()
    x = PCA(components, random_state=0).fit_transform(np.asarray(whole.x[:examples], np.float64))
    return data.Dataset((x - x.mean(0)) / x.std(0), whole.y[:examples], whole.num_classes, "digits")


def setting(net: str, points: int, config: Config) -> Setting:
    """Glorot's initial weights, and normal numbers of deviation 0.1 on everything, so that biases are not zero."""
    sizes, examples = NETS[net]
    dataset = data.digits() if sizes[0] == 64 else small_digits(examples, sizes[0])
    made = problem.classification(models.mlp(sizes, init="glorot"), dataset)

    def draw(key: jax.Array) -> jax.Array:
        weights, noise = jax.random.split(key)
        theta = ravel_pytree(made.init(weights))[0]
        return theta + 0.1 * jax.random.normal(noise, theta.shape)

    unravel = ravel_pytree(made.init(jax.random.key(0)))[1]
    thetas = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(config.seed), points)))
    return Setting(sizes, dataset, made.loss, unravel, thetas, config.k, config.threads)


def dense(case: Setting, theta: jax.Array) -> jax.Array:
    """The Hessian by plain automatic differentiation, some columns at a time."""
    column = functools.partial(product, case, theta)
    matrix = jax.lax.map(column, jnp.eye(len(theta)), batch_size=BLOCK)
    return (matrix + matrix.T) / 2


def product(case: Setting, theta: jax.Array, v: jax.Array) -> jax.Array:
    return jax.jvp(jax.grad(case.flat), (theta,), (v,))[1]


def truth(case: Setting) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The dense Hessian of each point and its eigenvalues."""
    matrix = jax.jit(functools.partial(dense, case))
    for theta in case.thetas:
        h = np.asarray(matrix(theta))
        yield h, np.linalg.eigvalsh(h)


def meant(values: np.ndarray, task: str, k: int) -> np.ndarray:
    """Of all eigenvalues, ascending, those that a task asks for."""
    return {LARGEST: values[..., -k:], LOWEST: values[..., :k], SPECTRUM: values}[task]


def count_negative(values: np.ndarray) -> np.ndarray:
    return np.sum(values < -BAND * np.abs(values).max(-1, keepdims=True), axis=-1)


def judge(found: Found, task: str, known: Sequence[tuple[np.ndarray, np.ndarray]], config: Config) -> tuple[float, str]:
    """The largest relative error over the points (NaN for an index), and a verdict that is "" if there is a fault."""
    if found.index is not None:
        right = sum(int(i) == int(count_negative(values)) for i, (_, values) in zip(found.index, known, strict=False))
        n = len(found.index)
        proven = 0 if found.certified is None else int(np.sum(found.certified))
        text = "certified" if proven == n else f"{proven} of {n} certified" if proven else "right, no proof"
        return math.nan, text if right == n else f"wrong at {n - right} of {n}"
    assert found.values is not None
    worst = 0.0
    for i, (values, (h, exact)) in enumerate(zip(found.values, known, strict=False)):
        if not np.isfinite(values).all():
            return math.inf, "not converged"
        scale = np.abs(exact).max()
        errors = [np.abs(values - meant(exact, task, config.k)).max()]
        if found.vectors is not None:
            v = found.vectors[i] / np.linalg.norm(found.vectors[i], axis=0)
            errors.append(np.linalg.norm(h @ v - v * values, axis=0).max())
        worst = max(worst, *(float(e) / scale for e in errors))
    return worst, f"{worst:.0e}" if worst <= config.tol else f"{worst:.0e}, not converged"


def is_good(error: float, verdict: str, tol: float) -> bool:
    return not verdict.startswith("wrong") if math.isnan(error) else error <= tol


# The tools. Everything from a flat vector of parameters to arrays of numpy is in the time.


def one_by_one(solve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]], task: str) -> Solve:
    """A solver of many points from one of one point, (P,) -> values, vectors; an index counts the values."""

    def many(thetas: np.ndarray) -> Found:
        pairs = [ascending(*solve(theta)) for theta in thetas]
        values = np.stack([values for values, _ in pairs])
        if task == INDEX:
            return Found(index=count_negative(values))
        vectors = [v for _, v in pairs if v is not None]
        return Found(values, np.stack(vectors) if vectors else None)

    return many


def ascending(values: np.ndarray, vectors: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    order = np.argsort(values)
    return values[order], None if vectors is None else vectors[:, order]


def jaxsoft_tool(case: Setting, task: str, effort: float) -> Solve:
    return _jaxsoft_at_one(case, task) if len(case.thetas) == 1 else _jaxsoft_at_many(case, task)


def _jaxsoft_at_one(case: Setting, task: str) -> Solve:
    if task == INDEX:

        def certified(thetas: np.ndarray) -> Found:
            found = curvature.inertia(case.loss, case.unravel(jnp.asarray(thetas[0])))
            return Found(index=np.asarray(found.negative)[None], certified=np.asarray(found.undecided == 0)[None])

        return certified
    if task == SPECTRUM:
        matrix = jax.jit(lambda theta: curvature.hessian(case.loss, case.unravel(theta)))
        return one_by_one(lambda theta: (np.linalg.eigvalsh(np.asarray(matrix(theta))), None), task)
    which = {LARGEST: "LA", LOWEST: "SA"}[task]
    pairs = jax.jit(lambda theta: curvature.spectrum(case.loss, case.unravel(theta), case.k, which)[:2])

    def extreme(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = pairs(theta)
        return np.asarray(values), np.asarray(vectors)

    return one_by_one(extreme, task)


def _jaxsoft_at_many(case: Setting, task: str) -> Solve:
    def measure(theta: jax.Array) -> dict[str, jax.Array]:
        params = case.unravel(theta)
        if task == INDEX:
            return curvature.inertia(case.loss, params).arrays()
        if task == SPECTRUM:
            return {"values": jnp.linalg.eigvalsh(curvature.hessian(case.loss, params))}
        found = curvature.spectrum(case.loss, params, case.k, {LARGEST: "LA", LOWEST: "SA"}[task])
        return {"values": found.eigenvalues, "vectors": found.eigenvectors}

    def many(thetas: np.ndarray) -> Found:
        evaluated = process.evaluate(measure, jnp.asarray(thetas))
        ds = sweep.run(evaluated, {"point": range(len(thetas))}, seed=0, steps=1)
        if task == INDEX:
            return Found(index=ds["final_negative"].to_numpy(), certified=ds["final_undecided"].to_numpy() == 0)
        vectors = ds["final_vectors"].to_numpy() if "final_vectors" in ds else None
        return Found(ds["final_values"].to_numpy(), vectors)

    return many


def jax_hessian_tool(case: Setting, task: str, effort: float) -> Solve:
    """The dense Hessian and all its eigenvalues, by what jax itself offers, at many points with a vmap in slices."""
    pairs = task in (LARGEST, LOWEST)

    def one(theta: jax.Array) -> tuple[jax.Array, ...]:
        small = len(theta) <= 2 * BLOCK  # the large one does not fit into memory all at once
        matrix = jax.hessian(case.flat)(theta) if small else dense(case, theta)
        return tuple(jnp.linalg.eigh(matrix)) if pairs else (jnp.linalg.eigvalsh(matrix),)

    every = jax.jit(lambda thetas: jax.lax.map(one, thetas, batch_size=8))

    def many(thetas: np.ndarray) -> Found:
        values, *rest = (np.asarray(x) for x in every(thetas))
        if task == INDEX:
            return Found(index=count_negative(values))
        return Found(meant(values, task, case.k), meant(rest[0], task, case.k) if pairs else None)

    return many


def matfree_tool(case: Setting, task: str, effort: float) -> Solve | None:
    """Lanczos with full reorthogonalisation to a depth; all eigenvalues would need as many products as parameters."""
    depth, size = int(effort), case.thetas.shape[1]
    if depth == 0:
        return None
    decomp, eig = importlib.import_module("matfree.decomp"), importlib.import_module("matfree.eig")
    lanczos = eig.eigh_partial(decomp.tridiag_sym(depth))
    start = jax.random.normal(jax.random.key(1), (size,))
    run = jax.jit(lambda theta: lanczos(lambda v, t: product(case, t, v), start, theta))

    def one(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        values, vectors = (np.asarray(x) for x in run(jnp.asarray(theta)))
        if task in (SPECTRUM, INDEX):
            return values, None
        order = np.argsort(values)
        chosen = meant(order, task, case.k)
        return values[chosen], vectors[chosen].T

    return one_by_one(one, task)


def depths(case: Setting, task: str) -> Sequence[float]:
    """Depths of Lanczos without restarts; for whole spectra only the number of parameters will do."""
    size = case.thetas.shape[1]
    if task in (SPECTRUM, INDEX):
        return (size if size <= 256 else 0,)
    return [d for d in (20, 30, 40, 50, 60, 70, 80, 100, 120, 160, 200, 300, 400) if d <= size]


class Torch(NamedTuple):
    """The same net and data in torch; ``load`` puts in parameters, in the same order."""

    torch: Any
    model: Any
    criterion: Any
    x: Any
    y: Any

    def load(self, theta: np.ndarray) -> None:
        with self.torch.no_grad():
            self.torch.nn.utils.vector_to_parameters(self.torch.from_numpy(theta.copy()), self.model.parameters())


def in_torch(case: Setting) -> Torch:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(case.threads)
    layers: list[Any] = []
    for a, b in zip(case.sizes, case.sizes[1:], strict=False):
        layers += [torch.nn.Linear(a, b, dtype=torch.float64), torch.nn.Tanh()]
    x = torch.from_numpy(np.asarray(case.dataset.x, np.float64))
    y = torch.from_numpy(np.asarray(case.dataset.y, np.int64))
    return Torch(torch, torch.nn.Sequential(*layers[:-1]), torch.nn.CrossEntropyLoss(), x, y)


def curvlinops_tool(case: Setting, task: str, effort: float) -> Solve:
    """ARPACK on its operator for extreme pairs; its operator times the identity, and LAPACK, for all eigenvalues."""
    curvlinops: Any = importlib.import_module("curvlinops")
    net = in_torch(case)
    params = list(net.model.parameters())
    size = case.thetas.shape[1]

    def one(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        net.load(theta)
        operator = curvlinops.HessianLinearOperator(
            net.model, net.criterion, params, [(net.x, net.y)], check_deterministic=False, num_data=len(net.y)
        )
        if task in (SPECTRUM, INDEX):
            columns = net.torch.eye(size, dtype=net.torch.float64).split(BLOCK, dim=1)
            matrix = net.torch.cat([operator @ part for part in columns], dim=1)
            return np.linalg.eigvalsh(matrix.detach().numpy()), None
        which = {LARGEST: "LA", LOWEST: "SA"}[task]
        start = np.random.default_rng(0).normal(size=size)
        return scipy.sparse.linalg.eigsh(operator.to_scipy(np.float64), case.k, which=which, tol=effort, v0=start)

    return one_by_one(one, task)


def eigenthings_tool(case: Setting, task: str, effort: float) -> Solve:
    """Its Lanczos to a depth; for all eigenvalues its product with each unit vector, and LAPACK."""
    things: Any = importlib.import_module("hessian_eigenthings")
    net = in_torch(case)
    loss = things.supervised_loss(net.criterion)
    size = case.thetas.shape[1]

    def one(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        net.load(theta)
        operator = things.HessianOperator(net.model, [(net.x, net.y)], loss)
        if task in (SPECTRUM, INDEX):
            columns = [operator.matvec(unit) for unit in net.torch.eye(size, dtype=net.torch.float64)]
            return np.linalg.eigvalsh(net.torch.stack(columns).detach().numpy()), None
        which = {LARGEST: "LA", LOWEST: "SA"}[task]
        found = things.lanczos(operator, k=case.k, max_iter=int(effort), which=which, reorthogonalize=True, seed=0)
        return found.eigenvalues.detach().numpy(), found.eigenvectors.detach().numpy().T

    return one_by_one(one, task)


def pyhessian_tool(case: Setting, task: str, effort: float) -> Solve | None:
    """Power iteration with deflation: the largest in modulus, which are the largest at these points; nothing else."""
    if task != LARGEST:
        return None
    library: Any = importlib.import_module("pyhessian")
    net = in_torch(case)

    def one(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        net.load(theta)
        net.model.zero_grad(set_to_none=True)
        net.torch.manual_seed(0)
        before = net.torch.get_default_dtype()
        net.torch.set_default_dtype(net.torch.float64)  # its random start takes the default
        try:
            operator = library.hessian(net.model, net.criterion, data=(net.x, net.y), cuda=False)
            values, vectors = operator.eigenvalues(maxIter=2000, tol=effort, top_n=case.k)
        finally:
            net.torch.set_default_dtype(before)
        flat = [net.torch.cat([part.reshape(-1) for part in v]).detach().numpy() for v in vectors]
        return np.asarray(values), np.stack(flat, axis=1)

    return one_by_one(one, task)


TOOLS = {
    "jaxsoft": Tool((), jaxsoft_tool, batched=True),
    "curvlinops": Tool(
        ("torch", "curvlinops"),
        curvlinops_tool,
        lambda case, task: (1e-4, 1e-5, 1e-6, 1e-7, 1e-8) if task in (LARGEST, LOWEST) else (0.0,),
    ),
    "hessian-eigenthings": Tool(
        ("torch", "hessian_eigenthings"),
        eigenthings_tool,
        lambda case, task: depths(case, task) if task in (LARGEST, LOWEST) else (0.0,),
    ),
    "pyhessian": Tool(("torch", "pyhessian"), pyhessian_tool, lambda case, task: (1e-9, 1e-11, 1e-13)),
    "matfree": Tool(("matfree",), matfree_tool, depths),
    "jax.hessian": Tool((), jax_hessian_tool, batched=True),
}


# The race


@dataclass
class Runner:
    """A tool at work on one task; ``factor`` makes the time of ``thetas`` one of all points."""

    name: str
    solve: Solve
    thetas: np.ndarray
    factor: float
    error: float
    verdict: str
    cold: float = 0.0
    calls: int = 1
    warm: list[float] = field(default_factory=list)

    def once(self) -> Found:
        return self.solve(self.thetas)


def prepare(name: str, case: Setting, task: str, known: list, config: Config) -> Runner | None:
    """The tool with the least of its efforts that is accurate (or its greatest); None where it offers nothing."""
    tool = TOOLS[name]
    some = len(case.thetas) if tool.batched else min(len(case.thetas), config.peer_points)
    thetas, factor = case.thetas[:some], len(case.thetas) / some
    made: Runner | None = None
    for effort in tool.efforts(case, task):
        solve = tool.make(case, task, effort)
        if solve is None:
            return None
        error, verdict = judge(solve(thetas), task, known, config)
        fresh = tool.make(case, task, effort)
        assert fresh is not None
        made = Runner(name, fresh, thetas, factor, error, verdict)
        if is_good(error, verdict, config.tol):
            break
    return made


def race(case: Setting, task: str, known: list, config: Config, tools: Iterable[str]) -> list[Runner]:
    """Cold once each, then the warm repeats, every tool in turn."""
    runners = [made for name in tools if (made := prepare(name, case, task, known, config)) is not None]
    for runner in runners:
        jax.clear_caches()
        runner.cold = seconds(runner.once)
    for runner in runners:  # the caches are cleared for all
        runner.once()
        once = seconds(runner.once)
        runner.calls = max(1, math.ceil(config.least_time / once))
        if once > config.patience:
            runner.warm.append(once)
    quick = [runner for runner in runners if not runner.warm]
    calls = {runner.name: functools.partial(seconds, runner.once, runner.calls) for runner in quick}
    warm = in_turn(calls, config.repeats)
    for runner in quick:
        runner.warm = warm[runner.name]
    for runner in runners:  # the first call of a fresh solver happens once, whatever the number of points
        runner.cold += (runner.factor - 1) * float(np.median(runner.warm))
    return runners


def row(runner: Runner, label: str, task: str, tol: float) -> Row:
    calls = f"{len(runner.thetas)} points x {runner.factor:g}" if runner.factor > 1 else ""
    warm = tuple(runner.factor * t for t in runner.warm)
    good = is_good(runner.error, runner.verdict, tol)
    return Row(label, task, runner.name, runner.cold, warm, calls, runner.error, runner.verdict, good)


def main(config: Config = Config(), console: Console | None = None) -> list[Row]:
    """All rows; what is not installed is left out, and said in one line on the console."""
    if jnp.result_type(float) != jnp.float64:
        raise ValueError("jax_enable_x64: expected True, the benchmark compares at a tolerance below float32")
    console = console or Console()
    tools = []
    for name in config.tools:
        if absent := missing(TOOLS[name].modules):
            console.print(f"{name}: left out, {' and '.join(absent)} not installed")
        else:
            tools.append(name)
    rows: list[Row] = []
    for net, points in config.cases:
        case = setting(net, points, config)
        known = list(truth(case))
        label = f"{net}, {case.thetas.shape[1]:,} parameters, {points:,} point{'s' if points > 1 else ''}"
        for task in config.tasks:
            status = console.status(f"{label}: {task}") if console.is_terminal else contextlib.nullcontext()
            with status:
                rows += [row(r, label, task, config.tol) for r in race(case, task, known, config, tools)]
    return rows


def best_peer(rows: Iterable[Row], case: str, task: str) -> Row | None:
    """The fastest library, other than this one, that is accurate."""
    peers = [
        r for r in rows if (r.case, r.task) == (case, task) and r.good and r.tool not in ("jaxsoft", "jax.hessian")
    ]
    return min(peers, key=lambda r: r.median, default=None)


def ratio(r: Row, rows: Sequence[Row]) -> str:
    """Warm time of the best peer over that of jaxsoft, in its row; in the others theirs over that of jaxsoft."""
    if r.tool == "jaxsoft":
        peer = best_peer(rows, r.case, r.task)
        return "no peer" if peer is None else f"best peer {peer.median / r.median:.1f}"
    ours = [o for o in rows if (o.case, o.task, o.tool) == (r.case, r.task, "jaxsoft")]
    return f"{r.median / ours[0].median:.1f}" if ours else ""


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """One table a case."""
    console = console or Console()
    for case in dict.fromkeys(r.case for r in rows):
        table = Table(title=case, title_justify="left")
        table.add_column("task")
        table.add_column("tool")
        for heading in ("cold s", "warm s, median [min-max]", "worst residual", "time / jaxsoft"):
            table.add_column(heading, justify="right")
        last = ""
        for r in (r for r in rows if r.case == case):
            if r.task != last and last:
                table.add_section()
            name = f"{r.tool} ({r.calls})" if r.calls else r.tool
            table.add_row(
                r.task if r.task != last else "", name, f"{r.cold:.3g}", spread(r.warm), r.verdict, ratio(r, rows)
            )
            last = r.task
        console.print(table)


if __name__ == "__main__":
    chosen = Config()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", chosen.threads)
    out = Console(width=140)
    show(main(chosen, out), out)
    peers = ("jax", "torch", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian", "matfree", "numpy", "scipy")
    out.print(versions(peers))
