"""Lightning: its first stage is progressive distillation; later the game rests where student and teacher agree."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, weightings
from diffusion.objectives.progressive import Taught
from tests.objectives.few_step_cases import DATA, FLOW, V, as_v, exact_denoiser, exact_x0, keys_and_data

N, STAGE = 4, 10  # steps 0 .. 9 by the squared error, 10 .. 14 with x_t beside, 15 .. 19 without
KEYS, BATCH = keys_and_data()
BATCH = {"x": np.float64(BATCH["x"])}  # JAX keeps float64 only within the tests
BATCH["noise"] = np.random.default_rng(6).standard_normal(BATCH["x"].shape)
GENERATOR = objectives.progressive_adversarial(V, V, N, STAGE)
JUDGE = objectives.transition_judge(V, V, N, STAGE)
MAKERS = objectives.progressive_adversarial, objectives.transition_judge
A = np.array([[0.4, 0.2], [-0.3, 0.5]])


def teacher_step(t, s, x):
    """One step of DDIM of the exact denoiser, from t to s `[B]`."""
    x0 = exact_x0(FLOW, t, x)
    column = lambda a: a[:, None]
    eps = (x - column(1 - t) * x0) / column(t)
    return column(1 - s) * x0 + column(s) * eps


def halved(steps):
    """The network whose one step of 1 / steps is two of the exact denoiser, and the student's x0."""

    def x_0(t, x):
        s = t - 1 / steps
        end = teacher_step(t - 0.5 / steps, s, teacher_step(t, t - 0.5 / steps, x))
        ratio = (s / t)[:, None]
        return (end - ratio * x) / ((1 - s)[:, None] - ratio * (1 - t)[:, None])

    return as_v(FLOW, x_0)


def judge(parameters, x, t, condition):
    A, b = parameters
    return jnp.tanh(x @ A + b * t[:, None])


def run(objective, step, student, parameters=(A, 0.3), offset=0.0):
    model = lambda x, t, condition: student(x, t, condition) + offset
    players = {"model": model, "teacher": exact_denoiser(FLOW), "judge": lambda *inputs: judge(parameters, *inputs)}
    return objective(players, FLOW, KEYS, BATCH, step)


@pytest.mark.extended
def test_the_first_stage_is_progressive_distillation(x64):
    progressive = objectives.progressive_distillation(V, V, N, weightings.snr())
    objective = objectives.progressive_adversarial(V, V, N, STAGE, weightings.snr())
    student = exact_denoiser(FLOW, DATA)
    losses, metrics = jax.jit(lambda step: run(objective, step, student, offset=0.1))(9)
    np.testing.assert_allclose(losses, jax.jit(lambda: run(progressive, 9, student, offset=0.1))()[0], rtol=1e-9)
    np.testing.assert_array_equal(losses, metrics["squared_error"])


@pytest.mark.extended
@pytest.mark.parametrize("step", [12, 17])
def test_the_game_rests_where_the_student_takes_the_teachers_steps(step, x64):
    """D = 0 is then the best judge, whose loss is 2 log 2, and from which the student learns nothing."""
    student = halved(N // 2)  # of the second stage

    def of_judge(scale, offset):
        parameters = (scale * A, scale * 0.3)
        return run(JUDGE, step, student, parameters, offset)[0].mean()

    def of_student(offset, scale):
        return run(GENERATOR, step, student, (scale * A, scale * 0.3), offset)[0].mean()

    slope = jax.jit(jax.grad(of_judge))
    assert abs(slope(0.0, 0.0)) < 1e-9 < 1e-3 < abs(slope(0.0, 0.2))
    np.testing.assert_allclose(of_judge(0.0, 0.0), 2 * np.log(2), rtol=1e-12)
    slope = jax.jit(jax.grad(of_student))
    assert abs(slope(0.0, 0.0)) < 1e-9 < 1e-3 < abs(slope(0.0, 1.0))


@functools.cache
def both_players():
    """step -> (losses, metrics) of the student and of the judge, compiled once."""
    student = exact_denoiser(FLOW, DATA)
    return jax.jit(lambda step: [run(objective, step, student, offset=0.3) for objective in (GENERATOR, JUDGE)])


@pytest.mark.parametrize("step, beside", [(9, False), (10, True), (14, True), (15, False), (19, False), (20, True)])
def test_losses_are_those_of_gans_on_where_the_steps_end(step, beside, x64):
    """-log sigmoid(D) of the student's end; the judge's adds -log(1 - sigmoid(D)) there, and -log sigmoid(D) of x_s."""
    student = exact_denoiser(FLOW, DATA)
    (losses, metrics), (of_judge, logits) = both_players()(step)
    fooled = metrics["adversarial"]
    np.testing.assert_array_equal(losses, metrics["squared_error"] if step < STAGE else fooled)
    np.testing.assert_array_equal(logits["t"], metrics["t"])
    t = metrics["t"]
    s = t - 1 / (N >> step // STAGE)
    x_t = (1 - t[:, None]) * BATCH["x"] + t[:, None] * BATCH["noise"]
    middle = (t + s) / 2
    x_s = teacher_step(middle, s, teacher_step(t, middle, x_t))
    v = student(x_t, t, None) + 0.3
    alpha, sigma = 1 - t[:, None], t[:, None]
    x0 = (alpha * x_t - sigma * v) / (alpha**2 + sigma**2)
    eps = (sigma * x_t + alpha * v) / (alpha**2 + sigma**2)
    x_hat = (1 - s)[:, None] * x0 + s[:, None] * eps
    d = lambda x, t: judge((A, 0.3), x, t, None)
    D = lambda x: (d(x, jnp.maximum(s, 2.0**-24)) * (1 + beside * d(x_t, t))).mean(1)
    sigmoid = jax.nn.sigmoid
    np.testing.assert_allclose(logits["real"], D(x_s), rtol=1e-6)
    np.testing.assert_allclose(logits["fake"], D(x_hat), rtol=1e-6)
    np.testing.assert_allclose(fooled, -jnp.log(sigmoid(D(x_hat))), rtol=1e-6)
    np.testing.assert_allclose(of_judge, -jnp.log(sigmoid(D(x_s))) - jnp.log(1 - sigmoid(D(x_hat))), rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("make", [objectives.progressive_adversarial, objectives.transition_judge])
def test_the_first_teacher_alone_is_guided_for_both_players(make, x64):
    """As by a teacher that is null + 2 (conditional - null) itself; from the second stage on without guidance."""
    teacher = lambda x, t, label: (1 + 0.2 * label[:, None]) * exact_denoiser(FLOW)(x, t, None)

    def guided(x, t, label):
        null = teacher(x, t, jnp.full_like(label, 3))
        return null + 2 * (teacher(x, t, label) - null)

    def losses(step, teacher, **how):
        players = {"model": exact_denoiser(FLOW), "teacher": teacher, "judge": lambda *inputs: judge((A, 0.3), *inputs)}
        batch = BATCH | {"condition": jnp.arange(24) % 3}
        return make(V, V, N, STAGE, **how)(players, FLOW, KEYS, batch, step)[0]

    @jax.jit
    def run(step):
        return losses(step, teacher, teacher_scale=2.0, null=3), losses(step, guided), losses(step, teacher)

    built_in, expected, plain = run(STAGE - 1)
    np.testing.assert_allclose(built_in, expected, rtol=1e-9)
    assert (np.abs(built_in / plain - 1) > 1e-6).all()
    built_in, _, plain = run(STAGE)
    np.testing.assert_array_equal(built_in, plain)


@pytest.mark.extended
def test_without_a_weighting_the_first_stage_has_that_of_progressive_distillation(x64):
    plain, other = (objectives.progressive_adversarial(V, V, N, STAGE, *w) for w in ((), (weightings.truncated_snr(),)))
    student = exact_denoiser(FLOW, DATA)
    found, expected = jax.jit(lambda: [run(objective, 0, student, offset=0.1)[0] for objective in (plain, other)])()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def features_of(x, t):
    return jnp.sin(x + t[:, None]), x * t[:, None]


HEADS = jnp.array([[0.4, -0.3, 0.5, 0.2], [0.7, 0.1, -0.6, 0.3]])


@pytest.mark.extended
@pytest.mark.parametrize("step, beside", [(10, True), (15, False)])
def test_heads_see_the_teachers_features_of_both_ends_of_a_step(step, beside, x64):
    """Two heads, tanh of a product with the joined features; each adds its own loss, and the gradient goes through."""
    exact = exact_denoiser(FLOW, DATA)

    def teacher(x, t, condition, features=None, scale=1.0):
        h = features_of(x, t)
        if features is None:
            return exact(x, t, condition)
        return exact(x, t, condition), [scale * h[k - 1] for k in features]

    def heads(joined, t, condition):
        return jnp.stack([jnp.tanh(h @ w) for h, w in zip(joined, HEADS)], axis=1)

    def losses(objective, offset=0.3, scale=1.0):
        taught = functools.partial(teacher, scale=scale)
        players = {"model": lambda *inputs: exact(*inputs) + offset, "teacher": taught, "judge": heads}
        return objective(players, FLOW, KEYS, BATCH, step)

    (fooled, metrics), (of_judge, _) = (losses(make(V, V, N, STAGE, blocks=(1, 2))) for make in MAKERS)
    t = metrics["t"]
    x_t = (1 - t[:, None]) * BATCH["x"] + t[:, None] * BATCH["noise"]
    s = t - 1 / (N >> step // STAGE)
    middle, alpha, sigma = (t + s) / 2, 1 - t[:, None], t[:, None]
    end = jnp.maximum(s, 2.0**-24)

    def D(x):
        pairs = zip(features_of(x, end), features_of(x_t, t), HEADS)
        return jnp.stack([jnp.tanh(jnp.concatenate([h, beside * start], 1) @ w) for h, start, w in pairs], axis=1)

    def x_hat(offset):
        v = exact(x_t, t, None) + offset
        x0 = (alpha * x_t - sigma * v) / (alpha**2 + sigma**2)
        eps = (sigma * x_t + alpha * v) / (alpha**2 + sigma**2)
        return (1 - s)[:, None] * x0 + s[:, None] * eps

    x_s = teacher_step(middle, s, teacher_step(t, middle, x_t))
    student = lambda offset: -jnp.log(jax.nn.sigmoid(D(x_hat(offset)))).mean(1)
    np.testing.assert_allclose(fooled, student(0.3), rtol=1e-6)
    real = -jnp.log(jax.nn.sigmoid(D(x_s))).mean(1)
    np.testing.assert_allclose(of_judge, real - jnp.log(1 - jax.nn.sigmoid(D(x_hat(0.3)))).mean(1), rtol=1e-6)
    of_offset = lambda offset: losses(MAKERS[0](V, V, N, STAGE, blocks=(1, 2)), offset)[0].mean()
    slope = jax.grad(lambda offset: student(offset).mean())(0.3)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(jax.grad(of_offset)(0.3), slope, rtol=1e-6)
    for objective in (make(V, V, N, STAGE, blocks=(1, 2)) for make in MAKERS):  # the teacher stays as it is
        of_scale = lambda scale, objective=objective: losses(objective, scale=scale)[0].mean()
        assert jax.grad(of_scale)(1.0) == 0


def test_both_players_share_their_stages():
    assert GENERATOR.teacher.stages.sampling_steps == (4, 2, 1) and GENERATOR.teacher.stages.length == STAGE
    assert GENERATOR.teacher.scale == 1 and MAKERS[0](V, V, N, STAGE, teacher_scale=2.0).teacher.scale == 2
    assert GENERATOR.reads.parameterization is V and JUDGE.reads is None and JUDGE.network.name == "judge"
    for blocks, joined in (((), 1), ((2, 5), 2)):
        second = MAKERS[0](V, V, N, STAGE, blocks=blocks).second
        assert (second.network, second.by) == ("judge", objectives.transition_judge)
        assert (second.separate, second.features, second.joined) == (bool(blocks), blocks, joined)
    assert GENERATOR.shares == JUDGE.shares != objectives.transition_judge(V, V, N, STAGE + 1).shares
    assert GENERATOR.shares != objectives.transition_judge(V, V, N, STAGE, blocks=(2,)).shares
    for make in MAKERS:
        with pytest.raises(ValueError, match=f"{make.__name__}: N = 3 is halved"):
            make(V, V, 3, STAGE)
        with pytest.raises(ValueError, match=rf"{make.__name__}: blocks = \(0, 1\)\. Valid: indices of at least 1"):
            make(V, V, N, STAGE, blocks=(0, 1))


def test_heads_receive_the_joined_features_of_both_ends(x64):
    """By a judge that notes them: those of x_s, those of x_t beside or zeros, and the time of the end."""
    exact = exact_denoiser(FLOW, DATA)
    logits_of = importlib.import_module("diffusion.objectives.progressive_adversarial")._logits

    def teacher(x, t, condition, features=None):
        return (
            exact(x, t, condition)
            if features is None
            else (exact(x, t, condition), (jnp.sin(x + t[:, None])[:, None],))
        )

    def losses(x_t, x_s, t, s, step):
        taught = Taught(x_t, t, s, x_s)

        def heads(joined, t, condition):
            assert [h.shape for h in joined] == [(3, 1, 4)]  # a position with the channels of both
            return (joined[0].sum(-1) + t[:, None]) * jnp.ones(2)

        players = {"teacher": teacher, "judge": heads}
        return logits_of(players, FLOW, V, taught, None, step, STAGE, (1,))(x_s)

    x_t, x_s = np.random.default_rng(0).standard_normal((2, 3, 2))
    t, s = np.array([1.0, 0.5, 0.25]), np.array([0.75, 0.25, 0.0])
    both = jax.jit(losses)
    for step, beside in ((14, 1), (15, 0), (20, 1)):
        end = np.maximum(s, 2.0**-24)
        expected = np.sin(x_s + end[:, None]).sum(1) + beside * np.sin(x_t + t[:, None]).sum(1) + end
        np.testing.assert_allclose(both(x_t, x_s, t, s, step), np.stack([expected] * 2, 1), rtol=1e-6)


def test_the_logits_of_the_judge_are_means_over_its_heads(x64):
    exact = exact_denoiser(FLOW, DATA)
    teacher = lambda x, t, condition, features=None: exact(x, t, condition) if features is None else (
        exact(x, t, condition), (x,)
    )  # fmt: skip
    heads = lambda joined, t, condition: jnp.ones((len(t), 2)) * jnp.array([1.0, 4.0])
    players = {"model": exact, "teacher": teacher, "judge": heads}
    objective = objectives.transition_judge(V, V, N, STAGE, blocks=(1,))
    losses, metrics = jax.jit(lambda: objective(players, FLOW, KEYS, BATCH, 10))()
    np.testing.assert_allclose(metrics["real"], 2.5)
    np.testing.assert_allclose(metrics["fake"], 2.5)
    expected = np.mean([np.log1p(np.exp(-1.0)) + np.log1p(np.exp(1.0)), np.log1p(np.exp(-4.0)) + np.log1p(np.exp(4.0))])
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
