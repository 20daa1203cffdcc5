"""A configuration in plain words, and the library calls that it stands for: what ``jaxsoft sweep`` runs.

jax is imported only when something is computed.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from jaxsoft import checks

if TYPE_CHECKING:
    import jax
    import numpy as np
    import xarray as xr
    from optax import GradientTransformation, OptState

    from jaxsoft.diagnose import Diagnosis
    from jaxsoft.models import Model
    from jaxsoft.page import Picture
    from jaxsoft.plot import Predict
    from jaxsoft.problem import Params, Problem
    from jaxsoft.process import Process

MODELS = ("mlp", "softmax_regression", "deep_linear", "cnn")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Sweep:
    """Train a classifier from many initialisations under several optimizers, and keep every run.

    Ctrl-C stops it in good order; the same command resumes. Look at the results with `jaxsoft report OUT`.
    """

    dataset: str = "digits"
    """digits, iris, wine, breast_cancer, mnist, mnist10, blobs, spirals, xor, planted; or a .npz, .csv or IDX file."""
    model: str = "mlp"
    """mlp, softmax_regression, deep_linear or cnn."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers (mlp, deep_linear), or channels (cnn)."""
    activation: str = "tanh"
    """tanh, relu, gelu, erf or linear."""
    init: str = "normal"
    """normal (standard deviation = scale), glorot, he or zeros."""
    scale: tuple[float, ...] = (1e-3,)
    """Scale of the initial weights (not for zeros); several values make an axis."""
    optimizers: tuple[str, ...] = ("gd", "momentum", "rmsprop", "adam")
    """gd, momentum, nesterov, rmsprop, adam, adamw, lion, muon, noisy_gd."""
    learning_rate: tuple[float, ...] = ()
    """Learning rates; by default each optimizer's own; several values make an axis."""
    l2: tuple[float, ...] = (0.0,)
    """Penalty (l2/2)·Σ w² on the weights; several values make an axis."""
    inits: int = 256
    """Initialisations; every optimizer starts from the same ones."""
    steps: int = 400
    """Optimizer updates of each run."""
    record_every: int = 4
    """Steps between recorded losses and accuracies."""
    batch_size: int | None = None
    """Examples in a mini-batch; None is the full batch."""
    test: float = 0.2
    """Share of the examples held out."""
    seed: int = 0
    """Of the initialisations, of the held-out split and of the mini-batches."""
    dtype: str = "float32"
    """float32 or float64."""
    out: Path = Path("results/sweep")
    """Folder of the results, a Zarr store that xarray opens."""
    verbose: bool = False
    """Say how the runs are laid out on the machine, and why."""


@dataclass(frozen=True)
class Diagnose:
    """Say where a run stands that does not move: which saddle, why, for how long, and what would be quicker.

    Of a sweep: `jaxsoft diagnose results/sweep --optimizer gd --run 3 --step 100`. Of your own model:
    `jaxsoft diagnose my_module:loss --params params.npz`.
    """

    target: Positional[str]
    """The folder of a sweep; or module:name of a function of the parameters, or of a Problem."""
    params: Path | None = None
    """The parameters: an .npz file (arrays named by their paths, a/b/c), or the folder of an Orbax checkpoint."""
    init: str | None = None
    """module:name of a function key -> parameters, whose structure those in the file have; without it nested dicts."""
    optimizer: str = "gd"
    """What the run is trained with."""
    learning_rate: float | None = None
    """Its learning rate; a sweep knows its own, elsewhere the optimizer's customary one."""
    momentum: float | None = None
    """Its momentum, for a model of your own; by default the optimizer's customary one."""
    opt_state: Path | None = None
    """Its state now, for a model of your own, as a file like that of the parameters; by default a fresh one."""
    run: int = 0
    """Number of the run of the sweep."""
    step: int = 0
    """Step of that run at which to look."""
    delta: float = 0.1
    """The drop of ln(loss - reference) to wait for."""
    reference: float = 0.0
    """What the loss would end at: a number below it, for a loss that can be negative."""


def from_json(text: str) -> Sweep:
    """The configuration that a store keeps in its attribute ``config``."""
    stored = json.loads(text)
    known = {field.name: stored[field.name] for field in fields(Sweep) if field.name in stored}
    return Sweep(**{n: tuple(v) if isinstance(v, list) else v for n, v in known.items()})  # pyrefly: ignore


def check(config: Sweep) -> None:
    """Refuse what can be refused before jax is loaded."""
    checks.one_of("model", config.model, MODELS)
    checks.one_of("dtype", config.dtype, DTYPES)
    for width in config.hidden:
        checks.count("hidden", width)
    for name in ("inits", "record_every"):
        checks.count(name, getattr(config, name))
    checks.count("steps", config.steps, at_most=2**31 - 1)
    checks.count("seed", config.seed, at_least=0, at_most=2**32 - 1)
    if config.batch_size is not None:
        checks.count("batch_size", config.batch_size)
    for name in ("scale", "learning_rate"):
        for value in getattr(config, name):
            checks.positive(name, value)
    for value in config.l2:
        checks.non_negative("l2", value)
    if not 0 < config.test < 1:
        raise ValueError(f"test: expected a share in (0, 1), got {config.test}")
    if config.init == "zeros" and len(config.scale) > 1:
        raise ValueError(f"scale: expected one value for init zeros, which has no scale, got {len(config.scale)}")
    for name in ("scale", "l2", "optimizers", "hidden"):
        if not getattr(config, name) and not (name == "hidden" and config.model == "softmax_regression"):
            raise ValueError(f"{name}: expected at least one value, got none")
    if len(set(config.optimizers)) < len(config.optimizers):
        raise ValueError(f"optimizers: expected different names, got {', '.join(config.optimizers)}")


def make_model(config: Sweep, shape: tuple[int, ...], classes: int, scale: float | None) -> Model:
    """The configured model for inputs of a shape; ``scale`` may be traced."""
    from jaxsoft import models

    features = 1
    for size in shape:
        features *= size
    sizes = (features, *config.hidden, classes)
    scale = None if config.init == "zeros" else scale
    if config.model == "softmax_regression":
        return models.softmax_regression(features, classes, init=config.init, scale=scale)
    if config.model == "deep_linear":
        return models.deep_linear(sizes, init=config.init, scale=scale)
    if config.model == "cnn":
        side = round(features**0.5)
        image = shape if len(shape) > 1 else (side, side)
        if len(shape) == 1 and side * side != features:
            raise ValueError(f"model: expected square images for cnn, got {features} features")
        return models.cnn(
            image, classes, channels=config.hidden, activation=config.activation, init=config.init, scale=scale
        )
    return models.mlp(sizes, activation=config.activation, init=config.init, scale=scale)


def sweep(config: Sweep, *, progress: bool = True) -> xr.Dataset:
    """Run the configured sweep; the library call behind ``jaxsoft sweep``."""
    check(config)
    from jaxsoft import data, optimizers, problem, train
    from jaxsoft.sweep import Seeds, run

    for name in config.optimizers:
        checks.one_of("optimizers", name, optimizers.NAMES)
    full = data.get(str(config.dataset))
    training, held_out = data.split(full, config.test, config.seed)
    shape = training.x.shape[1:]

    def process(
        optimizer: str, learning_rate: float, scale: float = config.scale[0], l2: float = config.l2[0]
    ) -> Process:
        model = make_model(config, shape, full.num_classes, scale)
        fit, held = problem.metrics(model, training), problem.metrics(model, held_out, "test_")

        def probe(params: problem.Params) -> dict[str, jax.Array]:
            return {"accuracy": fit(params)["accuracy"], **held(params)}

        return train.make_train(
            problem.classification(model, training, l2),
            optimizers.make(optimizer, learning_rate),
            batch_size=config.batch_size,
            probe=probe,
            keep_params=shape == (2,),  # for the pictures of the decision regions
        )

    rates = {name: {"learning_rate": optimizers.DEFAULT_LEARNING_RATE[name]} for name in config.optimizers}
    axes: dict[str, object] = {"optimizer": list(config.optimizers) if config.learning_rate else rates}
    if config.learning_rate:
        axes["learning_rate"] = config.learning_rate
    axes |= {n: getattr(config, n) for n in ("scale", "l2") if len(getattr(config, n)) > 1}
    axes["run"] = Seeds(config.inits)
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items() if k not in ("out", "verbose")}
    return run(
        process,
        axes,
        seed=config.seed,
        steps=config.steps,
        record_every=config.record_every,
        out=config.out,
        config=plain | {"num_classes": full.num_classes, "examples": len(training.y), "held_out": len(held_out.y)},
        progress=progress,
        verbose=config.verbose,
    )


def replay(
    ds: xr.Dataset, optimizer: str, run: int, step: int
) -> tuple[Problem, Params, GradientTransformation, OptState]:
    """One run of a sweep again, from its key up to a step: its problem, and where it stood there.

    Axes other than optimizer and run are taken at their first value. The caller sets the sweep's float type.
    Raises ValueError for an optimizer, a run or a step that the sweep does not have.
    """
    import jax
    import xarray as xr

    from jaxsoft import data, optimizers, problem, train
    from jaxsoft import replay as replays
    from jaxsoft.sweep import Seeds

    if not {"dataset", "hidden", "inits"} <= set(json.loads(ds.attrs["config"])):
        raise ValueError("target: expected a sweep made by jaxsoft sweep, got one with another configuration")
    config = from_json(ds.attrs["config"])
    checks.one_of("optimizer", optimizer, [str(name) for name in ds["optimizer"].to_numpy()])
    checks.count("run", run, at_least=0, at_most=config.inits - 1)
    checks.count("step", step, at_least=0, at_most=config.steps)
    full = data.get(str(config.dataset))
    training, _ = data.split(full, config.test, config.seed)
    model = make_model(config, training.x.shape[1:], full.num_classes, config.scale[0])
    made = problem.classification(model, training, config.l2[0])
    rate = config.learning_rate[0] if config.learning_rate else optimizers.DEFAULT_LEARNING_RATE[optimizer]
    transform = optimizers.make(optimizer, rate)
    process = train.make_train(made, transform, batch_size=config.batch_size)
    there = replays.states(
        process, {"run": Seeds(config.inits)}, xr.DataArray(step, {"run": run}), seed=config.seed,
        keep=lambda state: (state.params, state.opt_state),
    )  # fmt: skip
    params, opt_state = jax.tree.map(lambda leaf: leaf[0], there)
    return made, params, transform, opt_state


def diagnose(config: Diagnose) -> Diagnosis:
    """The library call behind ``jaxsoft diagnose``; float64 throughout, but for the replay of a float32 run."""
    checks.positive("delta", config.delta)
    if config.learning_rate is not None:
        checks.positive("learning_rate", config.learning_rate)
    path = Path(config.target)
    own = ":" in config.target and not path.exists()
    if own:
        if config.params is None:
            raise ValueError(f"params: expected a file with the parameters for {config.target}, got none")
    elif any(value is not None for value in (config.params, config.init, config.momentum, config.opt_state)):
        raise ValueError(f"target: expected module:name with params, init, momentum and opt_state, got {config.target}")
    import jax

    from jaxsoft import checkpoint, optimizers, store
    from jaxsoft.diagnose import diagnose as examine

    examine = functools.partial(examine, delta=config.delta, reference=config.reference)
    if own:
        checks.one_of("optimizer", config.optimizer, optimizers.NAMES)
        with jax.enable_x64(True):
            loss, params = _own(config)
            rate = config.learning_rate or optimizers.DEFAULT_LEARNING_RATE[config.optimizer]
            transform = optimizers.make(config.optimizer, rate, momentum=config.momentum)
            like = jax.eval_shape(transform.init, params)
            state = None if config.opt_state is None else checkpoint.load(config.opt_state, like)
            return examine(loss, params, transform, state)
    if config.learning_rate is not None:
        raise ValueError(f"learning_rate: expected none for a sweep, which has its own, got {config.learning_rate}")
    ds = store.load(path)
    with jax.enable_x64(ds.attrs["dtype"] == "float64"):
        state = replay(ds, config.optimizer, config.run, config.step)[1:]
    with jax.enable_x64(True):
        made, *_ = replay(ds, config.optimizer, config.run, 0)
        params, transform, opt_state = jax.tree.map(_double, state)
        return examine(made.loss, params, transform, opt_state)


def _double(leaf: object) -> object:
    import jax.numpy as jnp

    is_float = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)  # pyrefly: ignore
    return jnp.asarray(leaf, jnp.float64) if is_float else leaf


def _own(config: Diagnose) -> tuple[Callable[[Params], jax.Array], Params]:
    """The user's loss, and the parameters out of the file."""
    import jax
    import jax.numpy as jnp

    from jaxsoft import checkpoint
    from jaxsoft.problem import Problem

    loss = _named("target", config.target)
    init = None if config.init is None else _named("init", config.init)
    if isinstance(loss, Problem):
        loss, init = loss.loss, init or loss.init
    asked = f"init: expected a function of a key that returns parameters, {config.init} fails"
    like = None if init is None else _user(asked, jax.eval_shape, init, jax.eval_shape(_key))
    assert config.params is not None
    found = checkpoint.load(config.params, like)
    for name, leaf in checkpoint.paths(found).items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{config.params}: expected arrays of floats, got {leaf.dtype} in {name}")
    params = jax.tree.map(lambda leaf: _double(jnp.asarray(leaf)), found)
    arrays = ", ".join(checkpoint.paths(params))
    hint = "" if like is not None else " in nested dicts: --init names a function that gives their structure"
    _user(f"params: {config.target} fails on the arrays {arrays}{hint}", jax.eval_shape, loss, params)
    _user(f"target: {config.target} fails", loss, params)
    return loss, params


def _key() -> jax.Array:
    import jax

    return jax.random.key(0)


def _user(said: str, call: Callable[..., Any], *arguments: object) -> Any:
    """What a function of the user's returns; whatever it raises is one line."""
    try:
        return call(*arguments)
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"{said} ({type(error).__name__}{': ' if first else ''}{first})") from None


def _named(argument: str, name: str) -> Callable[..., Any]:
    """What ``module:name`` means; modules are looked for in the current folder first."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(f"{argument}: expected module:name, got {name}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{argument}: expected a module that can be imported, {error}") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    try:
        found: Any = functools.reduce(getattr, attribute.split("."), imported)
    except AttributeError:
        raise ValueError(f"{argument}: expected a name in {module}, got {attribute}") from None
    if not callable(found) and not hasattr(found, "loss"):
        raise TypeError(f"{argument}: expected a function, got {type(found).__name__} {name}")
    return found


def median_runs(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """The final parameters of each optimizer's run of median final loss."""
    import numpy as np

    from jaxsoft.process import DIVERGED

    chosen = {}
    for name in ds["optimizer"].to_numpy():
        runs = ds.sel(optimizer=name)
        ended = (runs["committed"] & (runs["status"] != DIVERGED)).to_numpy().ravel()
        if ended.any():
            axes = runs["committed"].dims
            loss = np.where(ended, runs["loss"].isel(step=-1).transpose(*axes).to_numpy().ravel(), np.inf)
            middle = np.argsort(loss)[(int(ended.sum()) - 1) // 2]
            params = runs["final_params"].transpose(*axes, ...).to_numpy()
            chosen[str(name)] = params.reshape(-1, params.shape[-1])[middle]
    return chosen


def decision_regions(ds: xr.Dataset) -> list[Picture]:
    """The picture of what the median runs decide, where the data lie in a plane; otherwise nothing."""
    if "final_params" not in ds:
        return []
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from jaxsoft import data, report

    jax.config.update("jax_enable_x64", ds.attrs["dtype"] == "float64")
    config = from_json(ds.attrs["config"])
    full = data.get(config.dataset)
    model = make_model(config, full.x.shape[1:], full.num_classes, config.scale[0])
    _, unravel = ravel_pytree(model.init(jax.random.key(0)))

    def predictor(params: np.ndarray) -> Predict:
        return lambda points: jax.vmap(model.apply, (None, 0))(unravel(jnp.asarray(params)), jnp.asarray(points))

    return [report.regions_picture({name: predictor(p) for name, p in median_runs(ds).items()}, full)]
