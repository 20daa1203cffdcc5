"""Diagnoses of points whose ailment is planted, from a loss alone, a Flax module, a file and a sweep."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsoft import checkpoint, cli, data, models, optimizers, plateau, problem
from jaxsoft.curvature import inertia
from jaxsoft.diagnose import (
    Answers,
    answers_of,
    causes,
    dead_units,
    diagnose,
    init_too_small,
    prior_not_learned,
    saturated_softmax,
    separable_tail,
    weight_gains,
)
from jaxsoft.trial import tried

NO_FORECAST = None
pytestmark = pytest.mark.usefixtures("quick_compilation")
IRIS = data.iris()


def names(made, params):
    """The causes that are found, by name."""
    return [cause.name for cause in found(made, params)]


def found(made, params):
    class Now:
        loss = float(made.loss(params))

    return list(causes(made.loss, params, answers_of(made.loss, params), Now()))


@pytest.fixture(scope="module")
def small():
    """4-6-3 on iris from small weights, with its diagnosis."""
    with jax.enable_x64(True):
        made = problem.classification(models.mlp((4, 6, 3), scale=1e-3), IRIS)
        params = made.init(jax.random.key(0))
        yield made, params, diagnose(made.loss, params, optax.sgd(0.1))


def test_labels_follow_from_the_gradient_in_the_logits(x64):
    made = problem.classification(models.mlp((4, 3, 3)), IRIS, l2=0.1)
    answers = answers_of(made.loss, made.init(jax.random.key(0)))
    np.testing.assert_allclose(answers.labels, np.eye(3)[IRIS.y], atol=1e-12)
    assert math.isclose(answers.prior_loss, math.log(3), rel_tol=1e-12)
    squared = problem.classification(models.mlp((4, 3, 3)), IRIS).loss
    assert answers_of(lambda p: squared(p), made.init(jax.random.key(0))) is None


def test_the_symmetric_saddle_is_named_with_the_index_of_theory(small):
    """Without biases index h · rank M; with them too, as a hidden bias adds an input and the classes are balanced."""
    made, params, said = small
    assert said.place == "the symmetric saddle at ln 3, index 12: the same answer for every example"  # 6 · rank 2
    zero = jax.tree.map(jnp.zeros_like, params)
    assert said.behind.loss.dtype == jnp.float64  # found in another thread, which has settings of its own
    with jax.enable_x64(True):
        assert int(inertia(made.loss, zero).negative) == 12
    assert said.causes[0].name == "init too small"
    assert said.forecast.verdict == "plateau"
    assert said.distance > 0


def test_the_quickest_choice_comes_first_and_is_quicker(small):
    steps = [choice.steps for choice in small[2].choices]
    assert steps == sorted(steps)
    assert steps[0] < small[2].forecast.steps
    text = str(small[2])
    for word in ("here", "behind", "why", "faster", "index 12", "init too small", "steps", "tried"):
        assert word in text


def after(loss, params, name, rate, count):
    """The losses of that many steps, the first that of ``params``."""
    optimizer = optimizers.make(name, rate)

    def step(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grad, state, params, key=jax.random.key(0))
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, optimizer.init(params)), length=count + 1)[1]


def test_what_is_recommended_is_so(small, x64):
    """Run apart: below the level first after so many steps, and below the present loss for as many or 100 more."""
    made, params, said = small
    level = said.forecast.level
    for choice in said.choices:
        if choice.name != "noisy_gd":
            losses = after(made.loss, params, choice.name, choice.learning_rate, choice.steps + max(choice.steps, 100))
            assert int((losses < level).argmax()) == choice.steps, choice
            assert losses[choice.steps :].max() < losses[0], choice
            assert math.isclose(losses[-1], choice.loss, rel_tol=1e-6), choice


def test_what_blows_up_after_the_saddle_is_not_recommended(x64):
    """A saddle of curvatures 1 and -1 leads to a valley, y = 1, that is 101 steep: there a step of 1 diverges."""

    def loss(p):
        x, y = p
        return 1 + x**2 / 2 - y**2 / 2 + y**4 / 4 + 50 * x**2 * y**2

    params = jnp.array([1e-3, 1e-2])
    found = tried(loss, params, {"gd": (1.0, 0.01)}, 0.9)
    assert [choice.learning_rate for choice in found] == [0.01]
    first = after(loss, params, "gd", 1.0, 10)
    assert first.min() < 0.9  # it does get there
    assert not after(loss, params, "gd", 1.0, 120)[-100:].max() < 1  # and does not stay


def test_beside_a_separable_tail_nothing_is_recommended(x64):
    pair = data.Dataset(IRIS.x[:100], IRIS.y[:100], 2, "separable")
    two = problem.classification(models.softmax_regression(4, 2), pair)
    params = jax.lax.fori_loop(
        0, 5000, lambda _, p: jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(two.loss)(p)),
        two.init(jax.random.key(0)),
    )  # fmt: skip
    said = diagnose(two.loss, params, optax.sgd(0.1))
    assert (said.forecast.verdict, said.tried, said.choices) == ("tail", 0, ())
    assert "faster" not in str(said)
    assert "the loss falls for ever" in said.place


def test_a_good_start_has_no_small_weights(x64):
    made = problem.classification(models.mlp((4, 6, 3), init="glorot"), IRIS)
    params = made.init(jax.random.key(0))
    assert names(made, params) == []
    assert all(0.3 < gain < 3 for gain in weight_gains(params).values())


@pytest.mark.parametrize("parts", [1, 10, 100])
def test_how_alike_answers_are_does_not_depend_on_how_finely_classes_are_cut(parts):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 30)
    labels = np.eye(4)[rng.integers(4, size=30)]
    cut = Answers(np.repeat(probabilities, parts, axis=1) / parts, np.repeat(labels, parts, axis=1) / parts)
    assert math.isclose(cut.spread, Answers(probabilities, labels).spread, rel_tol=1e-12)
    one_each = Answers(np.eye(4), np.eye(4))  # 3/4 of the mass of each answer lies elsewhere than the mean's
    assert one_each.spread == 0.75


@pytest.mark.parametrize("scale", [1e-3, 0.5])
def test_gains_are_shares_of_glorots_deviation(x64, scale):
    dense = models.mlp((300, 200, 10), init="glorot", scale=scale).init(jax.random.key(0))
    conv = models.cnn((16, 16), 10, channels=(30, 40), init="glorot", scale=scale).init(jax.random.key(0))
    for gain in [*weight_gains(dense).values(), *weight_gains(conv).values()]:
        assert math.isclose(gain, scale, rel_tol=0.1)  # the mean square of 2,000 normal numbers or more


def test_an_unlearned_prior_is_told(x64):
    few = np.concatenate(
        [np.flatnonzero(IRIS.y == 0), np.flatnonzero(IRIS.y == 1)[:5], np.flatnonzero(IRIS.y == 2)[:5]]
    )
    skewed = data.Dataset(IRIS.x[few], IRIS.y[few], 3, "skewed")
    made = problem.classification(models.mlp((4, 6, 3), scale=1e-3), skewed)
    params = made.init(jax.random.key(0))
    assert names(made, params) == ["class prior not learned", "init too small"]
    shares = np.bincount(skewed.y) / len(few)
    learned = (params[0], params[1]._replace(bias=jnp.log(shares)))
    assert names(made, learned) == ["init too small"]


def test_dead_units_are_counted(x64):
    made = problem.classification(models.mlp((4, 6, 3), init="he", activation="relu"), IRIS)
    params = made.init(jax.random.key(1))
    assert dead_units(made.loss, params, None, NO_FORECAST) is None
    killed = (params[0]._replace(bias=params[0].bias.at[jnp.array([0, 3])].set(-1e3)), params[1])
    cause = dead_units(made.loss, killed, None, NO_FORECAST)
    assert cause.evidence.endswith("exactly 0: 2 of 6 in 0/bias")
    zero = problem.classification(models.mlp((4, 6, 3), init="zeros"), IRIS)  # an output bias has a gradient of 0 there
    assert dead_units(zero.loss, zero.init(jax.random.key(0)), None, NO_FORECAST) is None


def test_saturation_and_separability(x64):
    made = problem.classification(models.softmax_regression(4, 3, init="glorot"), IRIS)
    huge = jax.tree.map(lambda w: 1e3 * w, made.init(jax.random.key(0)))
    assert "saturated softmax" in names(made, huge)
    pair = data.Dataset(IRIS.x[:100], IRIS.y[:100], 2, "separable")
    two = problem.classification(models.softmax_regression(4, 2), pair)
    params = two.init(jax.random.key(0))
    for _ in range(50):
        params = jax.tree.map(lambda w, g: w - 0.5 * g, params, jax.grad(two.loss)(params))
    assert "separable tail" in names(two, params)


def test_every_symptom_is_quiet_where_nothing_is_known(x64):
    params = jnp.array([1.0, 0.0, 1.0])
    for symptom in (prior_not_learned, init_too_small, dead_units, saturated_softmax, separable_tail):
        assert symptom(lambda p: jnp.sum(p**2), params, None, NO_FORECAST) is None


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        small = nn.initializers.normal(1e-3)
        h = nn.tanh(nn.Dense(5, kernel_init=small)(x))
        return nn.Dense(3, kernel_init=small)(h)


def test_a_flax_module_is_diagnosed_alike(x64):
    made = problem.classification(models.from_flax(Net(), IRIS.x[0]), IRIS)
    said = diagnose(made.loss, made.init(jax.random.key(0)))
    assert said.place.startswith("the symmetric saddle at ln 3, index 10")  # 5 · rank 2
    assert said.causes[0].name == "init too small"


@pytest.mark.parametrize("layout", ["layers", "flax"])
def test_parameters_return_from_their_file(x64, tmp_path, layout):
    model = models.mlp((4, 5, 3)) if layout == "layers" else models.from_flax(Net(), IRIS.x[0])
    params = model.init(jax.random.key(0))
    checkpoint.save(tmp_path / "p.npz", params)
    back = checkpoint.load(tmp_path / "p.npz", params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    np.savez(tmp_path / "flat.npz", params=flat)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load(tmp_path / "flat.npz", params), params)
    if layout == "flax":
        jax.tree.map(np.testing.assert_array_equal, checkpoint.load(tmp_path / "p.npz"), params)


def test_an_orbax_checkpoint_is_read(x64, tmp_path):
    import orbax.checkpoint

    params = models.from_flax(Net(), IRIS.x[0]).init(jax.random.key(0))
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "kept", params)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load(tmp_path / "kept", params), params)


def test_files_that_do_not_fit_are_one_line(x64, tmp_path):
    params = models.mlp((4, 5, 3)).init(jax.random.key(0))
    other = models.mlp((4, 6, 3)).init(jax.random.key(0))
    checkpoint.save(tmp_path / "p.npz", params)
    (tmp_path / "broken.npz").write_bytes(b"PK nonsense")
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], object))
    for file, like, said in (
        ("p.npz", other, "0/weight: expected shape"),
        ("p.npz", {"a": jnp.ones(3)}, "expected the arrays a"),
        ("broken.npz", None, "not a readable .npz"),
        ("pickled.npz", None, "not a readable .npz"),
        ("absent.npz", None, "no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            checkpoint.load(tmp_path / file, like)
        assert str(caught.value).startswith(str(tmp_path / file))
        assert "\n" not in str(caught.value)


MODULE = """
import flax.linen as nn, jax, jax.numpy as jnp
from jaxsoft import data, models, problem
made = problem.classification(models.mlp((4, 6, 3), scale=1e-3), data.iris())
loss, init, number = made.loss, made.init, 3
def bowl(p):
    return 1 + jnp.sum(p["a"] ** 2)
def low(p):
    return bowl(p) - 9
def asserts(p):
    assert False
def raises(p):
    raise RuntimeError("never")
def late(p):
    def number(x):
        raise ZeroDivisionError
    return jax.pure_callback(number, jax.ShapeDtypeStruct((), jnp.float64), p["a"].sum())
"""


def test_the_command_line_on_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stuck_net.py").write_text(MODULE)
    (tmp_path / "broken_net.py").write_text("raise AttributeError('no such thing')")
    params = models.mlp((4, 6, 3), scale=1e-3).init(jax.random.key(0))
    checkpoint.save("p.npz", params)
    for name, array in (("a", np.ones(2)), ("nan", np.full(2, np.nan)), ("words", np.array(["x", "y"]))):
        np.savez(name, a=array)
    np.savez("b.npz", b=np.ones(2))
    assert cli.main(["diagnose", "stuck_net:loss", "--params", "p.npz", "--init", "stuck_net:init"]) == 0
    said = capsys.readouterr().out
    assert "the symmetric saddle at ln 3, index 12" in said
    assert "init too small" in said
    for arguments, message in (
        (["stuck_net:loss"], "params: expected a file"),
        (["stuck_net:nothing", "--params", "p.npz"], "target: expected a name in stuck_net, got nothing"),
        (["no_such_module:loss", "--params", "p.npz"], "target: expected a module that can be imported"),
        (["stuck_net:number", "--params", "p.npz"], "target: expected a function, got int"),
        (["stuck_net:bowl", "--params", "absent.npz"], "absent.npz: no such file"),
        (["stuck_net:loss", "--params", "p.npz", "--optimizer", "sgdd"], "optimizer: expected one of"),
        (["stuck_net:loss", "--params", "p.npz"], "params: stuck_net:loss fails on the arrays 0/bias, 0/weight"),
        (["stuck_net:loss", "--params", "p.npz"], "nested dicts: --init names a function that gives their structure"),
        (["stuck_net:asserts", "--params", "a.npz"], "params: stuck_net:asserts fails on the arrays a in nested"),
        (["stuck_net:raises", "--params", "a.npz"], "(RuntimeError: never)"),
        (["stuck_net:late", "--params", "a.npz"], "target: stuck_net:late fails"),
        (
            ["stuck_net:loss", "--params", "p.npz", "--init", "stuck_net:raises"],
            "init: expected a function of a key that returns parameters, stuck_net:raises fails",
        ),
        (["stuck_net:bowl", "--params", "words.npz"], "words.npz: expected arrays of floats, got <U1 in a"),
        (["stuck_net:bowl", "--params", "b.npz"], "KeyError: 'a'"),
        (["stuck_net:bowl", "--params", "nan.npz"], "params: expected a finite loss there, got nan"),
        (["stuck_net:low", "--params", "a.npz"], "reference: expected a number below the loss, got 0.0"),
        (["stuck_net:bowl", "--params", "a.npz", "--momentum", "0.5"], "momentum: expected None for gd"),
        (["broken_net:loss", "--params", "p.npz"], "target: expected a module that can be imported, no such thing"),
        (["stuck_net:loss", "--params", "p.npz", "--delta", "0"], "delta: expected"),
        (["nowhere"], "nowhere"),
    ):
        assert cli.main(["diagnose", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_the_command_line_knows_reference_momentum_and_state(tmp_path, monkeypatch, capsys, x64):
    """The forecast of ½ (x² + y²) - 8 at (1, 1), with heavy ball's β and the momentum it had, is that of Python."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "low_net.py").write_text(MODULE)
    params = {"a": jnp.ones(2)}
    optimizer = optimizers.make("momentum", 1e-3, momentum=0.5)
    state = optimizer.update({"a": jnp.full(2, -3e3)}, optimizer.init(params))[1]  # uphill, far
    checkpoint.save("p.npz", params)
    checkpoint.save("s.npz", state)
    said = []
    for more in (["--momentum", "0.5"], ["--momentum", "0.5", "--opt-state", "s.npz"]):
        arguments = ["--params", "p.npz", "--reference", "-9", "--optimizer", "momentum", "--learning-rate", "1e-3"]
        assert cli.main(["diagnose", "low_net:low", *arguments, *more]) == 0
        said.append(capsys.readouterr().out.splitlines()[0].removeprefix("here").strip())

    def loss(p):
        return 1 + jnp.sum(p["a"] ** 2) - 9

    assert said[0] == str(plateau.forecast(loss, params, optimizer, reference=-9))
    assert said[1] == str(plateau.forecast(loss, params, optimizer, state, reference=-9))
    assert said[0] != said[1]


def test_the_command_line_on_a_run_of_a_sweep(tmp_path, capsys):
    out = tmp_path / "runs"
    settings = ["--dataset", "iris", "--hidden", "6", "--scale", "0.001", "--inits", "3", "--steps", "60"]
    assert cli.main(["sweep", *settings, "--optimizers", "gd", "adam", "--out", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["diagnose", str(out), "--optimizer", "gd", "--run", "2", "--step", "20"]) == 0
    said = capsys.readouterr().out
    assert "the symmetric saddle at" in said
    from jaxsoft import recipe, store

    ds = store.load(out)
    made, params, *_ = recipe.replay(ds, "gd", 2, 40)
    recorded = float(ds["loss"].sel(optimizer="gd", run=2, step=40))
    assert math.isclose(float(made.loss(params)), recorded, rel_tol=1e-5)  # float32
    for arguments, message in (
        (["--optimizer", "lion"], "optimizer: expected one of gd, adam"),
        (["--run", "3"], "run: expected"),
        (["--step", "61"], "step: expected"),
        (["--learning-rate", "1"], "learning_rate: expected none for a sweep"),
        (["--params", "p.npz"], "target: expected module:name"),
    ):
        assert cli.main(["diagnose", str(out), *arguments]) == 2
        assert message in capsys.readouterr().err
