"""Samplers that reuse earlier evaluations: each is a generator of rows.

They warm up at the first leg taken, whatever the plan holds before it. Earlier x and D come from
the table's own memory, `PAST_X` and `PAST_D`, one age a row.
"""

from math import factorial

import numpy as np

from kerasdiff.samplers.one_step import move, taken
from kerasdiff.samplers.table import NOISE, PAST_D, PAST_X, RAW, D, Row, X


def lms(plan):
    """Linear multistep of fourth order in sigma (Adams-Bashforth with uneven steps; k-diffusion).

    The slope is integrated as the polynomial through the last four slopes; two Gauss points are
    exact for that cubic.
    """
    points, _ = np.polynomial.legendre.leggauss(2)
    levels = [leg.level for leg in taken(plan)]
    for index, leg in enumerate(taken(plan)):
        past = levels[max(index - 3, 0) : index + 1][::-1]
        sigmas = [level.noise for level in past]
        half = (leg.target.noise - leg.level.noise) / 2
        weights = half * _lagrange(sigmas, leg.level.noise + half * (1 + points)).sum(axis=1)
        slopes = [(PAST_X[age] - PAST_D[age]) / sigma for age, sigma in enumerate(sigmas)]
        yield Row(leg.timestep, leg.level, X + weights @ slopes)


def _lagrange(nodes, points):
    """The polynomials that are 1 at one node and 0 at the others: (nodes, points)."""
    values = np.ones((len(nodes), len(points)))
    for i, node in enumerate(nodes):
        for other in nodes[:i] + nodes[i + 1 :]:
            values[i] *= (points - other) / (node - other)
    return values


_ADAMS = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12],
          4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}  # fmt: skip


def plms(plan):
    """Pseudo linear multistep (arXiv 2202.09778, without its Runge-Kutta start).

    What the network gave is mixed with the weights of Adams-Bashforth and then used as in DDIM.
    The first step is taken twice, the second time with the mean of its slopes at both ends; that
    second evaluation is not remembered.
    """
    legs = plan.legs[:1] + plan.legs[1:2] + plan.legs[1:]
    legs = legs[plan.start :]
    kind = plan.config.prediction_type

    def output(age, row):
        _, c_skip, c_out = legs[row - age].level.scalings(kind)
        return (PAST_D[age] - c_skip * PAST_X[age]) / c_out

    def land(level, target, x, mixed):
        _, c_skip, c_out = level.scalings(kind)
        return move(level, target, x, c_skip * x + c_out * mixed)

    for row, leg in enumerate(legs):
        if row == 1:
            mixed = (output(0, row) + output(1, row)) / 2
            yield Row(leg.timestep, leg.level, land(leg.source, leg.level, PAST_X[1], mixed))
            continue
        outputs = [output(age, row) for age in range(min(row + 1, 4)) if row - age != 1]
        if row == 4:
            # The first output is five rows old. The row before used it, so x still tells it.
            last = legs[3]
            rest = land(last.level, last.target, PAST_X[1], _mix(outputs[1:], 3))
            outputs.append((RAW - rest) / land(last.level, last.target, 0.0, _ADAMS[3][2]))
        mixed = _mix(outputs, len(outputs))
        yield Row(leg.timestep, leg.level, land(leg.level, leg.target, X, mixed))


def _mix(outputs, order):
    """The sum of outputs, newest first, with the weights of an order; a missing one counts 0."""
    return sum(w * output for w, output in zip(_ADAMS[order], outputs, strict=False))


def dpmpp(plan, order, sde=False):
    """DPM-Solver++ in several steps (arXiv 2211.01095), or its SDE, of order 1 to 3.

    Both are exponential integrators in lambda = -log sigma; the SDE's rate is twice the ODE's.
    """
    config, count = plan.config, len(plan.legs)
    lower = config.lower_order_final and count < 15
    ends_clean = plan.legs[-1].target.noise == 0
    for index, leg in enumerate(taken(plan), plan.start):
        usable = min(order, index - plan.start + 1)
        if index == count - 1 and (lower or ends_clean or config.euler_at_final):
            usable = 1
        elif index == count - 2 and lower:
            usable = min(usable, 2)
        step = leg.target.sigma / leg.level.sigma  # exp(-h)
        extra = step if sde else 1.0
        decay = step * extra
        form = leg.target.noise / leg.level.noise * extra * X
        form = form + leg.target.signal * (1 - decay) * D
        if usable > 1:
            lambdas = _lambdas(plan.legs[index - usable + 1 : index + 1])
            form = form + leg.target.signal * _curvature(lambdas, sde, config.solver_type)
        if sde:
            form = form + leg.target.noise * np.sqrt(1 - decay) * NOISE
        yield Row(leg.timestep, leg.level, form, draws=sde)


def _lambdas(legs):
    """lambda at the end of the last leg and then, going back, at the start of each."""
    sigmas = [legs[-1].target.sigma] + [leg.level.sigma for leg in legs[::-1]]
    return -np.log(sigmas)


def _curvature(lambdas, sde, solver_type):
    """What second and third order add to an exponential step of DPM-Solver++ (its appendix A)."""
    h, *before = -np.diff(lambdas)
    rate = 2 * h if sde else h
    linear = np.expm1(-rate) / rate + 1
    slope = (D - PAST_D[1]) * h / before[0]
    if len(before) == 1:
        return (linear if solver_type == "heun" else -np.expm1(-rate) / 2) * slope
    earlier = (PAST_D[1] - PAST_D[2]) * h / before[1]
    bend = (slope - earlier) * h / (before[0] + before[1])
    slope = slope + bend * before[0] / h
    if sde:
        # Diffusers' weight, which seeds depend on: k-diffusion has 1/2 where this has -1/2.
        return linear * slope - ((linear / rate) + 1 / 2) * bend
    return linear * slope - (linear / rate - 1 / 2) * bend


def unipc(plan):
    """UniPC (arXiv 2302.04867): each row corrects the step before, then predicts the next one.

    The corrected x is not in the table's memory, but it is what `RAW` was predicted from, and an
    edit of x does not reach it: where x is edited, only the network sees it.
    """
    config, count = plan.config, len(plan.legs)
    solver = "bh1" if config.solver_type == "bh1" else "bh2"
    used = 0
    for index, leg in enumerate(taken(plan), plan.start):
        age = index - plan.start
        form = X
        if age and index - 1 not in config.disable_corrector:
            lambdas = _lambdas(plan.legs[index - used : index])
            before = plan.legs[index - 1]
            weight = before.target.noise / before.level.noise
            last = (RAW - _unipc_step(0.0, before, lambdas, PAST_D[1:], solver)) / weight
            form = _unipc_step(last, before, lambdas, PAST_D[1:], solver, arrived=D)
        used = min(config.solver_order, age + 1)
        if config.lower_order_final:
            used = min(used, count - index)
        lambdas = _lambdas(plan.legs[index - used + 1 : index + 1])
        yield Row(leg.timestep, leg.level, _unipc_step(form, leg, lambdas, PAST_D, solver))


def _unipc_step(x, leg, lambdas, past, solver, arrived=None):
    """UniPC's step from x along a leg, of an order that the length of `lambdas` tells.

    Args:
        past: D at the leg's start, and earlier ones.
        arrived: D at the leg's end, for the corrector; the predictor has none.
    """
    h = lambdas[0] - lambdas[1]
    nodes = [(earlier - lambdas[1]) / h for earlier in lambdas[2:]]
    slopes = [(d - past[0]) / node for d, node in zip(past[1:], nodes, strict=False)]
    if arrived is not None:
        nodes, slopes = nodes + [1.0], slopes + [arrived - past[0]]
    form = leg.target.noise / leg.level.noise * x - leg.target.signal * np.expm1(-h) * past[0]
    if not nodes:
        return form
    base = -h if solver == "bh1" else np.expm1(-h)
    weights = _unipc_weights(np.array(nodes), -h) / base
    if len(nodes) == 1:
        weights = np.array([0.5])
    return form - leg.target.signal * base * weights @ slopes


def _unipc_weights(nodes, h):
    """Weights with which slopes at `nodes` integrate polynomials exactly (its equation 11)."""
    phi, moments = np.expm1(h) / h - 1, []
    for power in range(len(nodes)):
        moments.append(phi * factorial(power + 1))
        phi = phi / h - 1 / factorial(power + 2)
    powers = np.vander(nodes, increasing=True).T
    return np.linalg.solve(powers, moments)
