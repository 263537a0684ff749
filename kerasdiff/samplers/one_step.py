"""Samplers that look at no earlier step: each is a generator of rows.

D stands for the denoised picture and (x - signal D) / noise for the noise that is left. Samplers
named after DDPM keep x at variance one; the others keep the signal at one and let the noise grow
("sigma" coordinates). Both follow from the levels of the plan.
"""

from numpy import sqrt

from kerasdiff.samplers.table import NOISE, PAST_D, PAST_X, RAW, D, Level, Row, X


def taken(plan):
    """The legs that are taken."""
    return plan.legs[plan.start :]


def move(level, target, x=X, d=D):
    """x carried along the straight line from `level` to `target`, the denoised picture fixed."""
    return target.signal * d + target.noise * (x - level.signal * d) / level.noise


def ddim(plan):
    """DDIM (arXiv 2010.02502, equation 12), with `eta` times DDPM's noise (equation 16)."""
    for leg in taken(plan):
        abar, after = leg.level.signal**2, leg.target.signal**2
        fresh = plan.eta * sqrt((1 - after) / (1 - abar) * (1 - abar / after))
        kept = Level(leg.target.signal, sqrt(max(leg.target.noise**2 - fresh**2, 0.0)))
        yield Row(
            leg.timestep, leg.level, move(leg.level, kept) + fresh * NOISE, draws=plan.eta > 0
        )


def ddpm(plan):
    """DDPM (arXiv 2006.11239, equation 7), over any subset of its timesteps."""
    for leg in taken(plan):
        abar, after = leg.level.signal**2, leg.target.signal**2
        alpha, beta = abar / after, 1 - abar / after
        mean = (sqrt(after) * beta * D + sqrt(alpha) * (1 - after) * X) / (1 - abar)
        variance = max((1 - after) / (1 - abar) * beta, 1e-20)
        if plan.config.variance_type == "fixed_large":
            variance = beta
        draws = leg.timestep > 0
        yield Row(leg.timestep, leg.level, mean + draws * sqrt(variance) * NOISE, draws)


def euler(plan):
    """Euler's method in sigma (arXiv 2206.00364, algorithm 1 without its second half)."""
    for leg in taken(plan):
        yield Row(leg.timestep, leg.level, move(leg.level, leg.target))


def _ancestral(level, target):
    """The level to step down to, and the noise that then leads back up to `target`."""
    ratio = target.noise / level.noise
    up = target.noise * sqrt(1 - ratio**2)
    return Level(1.0, target.noise * ratio), up


def euler_ancestral(plan):
    """Euler's method below each noise level, and noise back up to it (k-diffusion)."""
    for leg in taken(plan):
        down, up = _ancestral(leg.level, leg.target)
        yield Row(leg.timestep, leg.level, move(leg.level, down) + up * NOISE, draws=True)


def heun(plan):
    """Heun's method in sigma (arXiv 2206.00364, algorithm 1): two rows a step, the last one alone.

    The second row goes back to x before the first and takes the mean of both slopes.
    """
    x1, d1 = PAST_X[1], PAST_D[1]
    for index, leg in enumerate(taken(plan), plan.start + 1):
        yield Row(leg.timestep, leg.level, move(leg.level, leg.target))
        if leg.target.noise == 0:
            continue
        later = plan.legs[index:]
        timestep = later[0].timestep if later else plan.timestep_of(leg.target.sigma)
        slopes = (x1 - d1) / leg.level.noise + (X - D) / leg.target.noise
        yield Row(timestep, leg.target, x1 + (leg.target.noise - leg.level.noise) * slopes / 2)


def _halfway(leg):
    return Level(1.0, sqrt(leg.level.noise * leg.target.noise))


def dpm2(plan):
    """DPM-Solver-2 (arXiv 2206.00927) in sigma: two rows a step, the last one alone.

    The second row takes the slope found halfway, in log sigma, over the whole step.
    """
    x1 = PAST_X[1]
    for leg in taken(plan):
        if leg.target.noise == 0:
            yield Row(leg.timestep, leg.level, move(leg.level, leg.target))
            continue
        middle = _halfway(leg)
        yield Row(leg.timestep, leg.level, move(leg.level, middle))
        slope = (X - D) / middle.noise
        whole = x1 + (leg.target.noise - leg.level.noise) * slope
        yield Row(plan.timestep_of(middle.sigma), middle, whole)


def dpmpp_sde(plan):
    """DPM-Solver++ (SDE) of second order in one step (arXiv 2211.01095; k-diffusion).

    One Brownian motion in sigma drives both rows of a step, so that the noise of the whole step
    contains the noise of its first half, which the second row reads off `RAW`.
    """
    x1, d1 = PAST_X[1], PAST_D[1]

    for leg in taken(plan):
        if leg.target.noise == 0:
            yield Row(leg.timestep, leg.level, move(leg.level, leg.target))
            continue
        middle = _halfway(leg)
        down, up = _ancestral(leg.level, middle)
        yield Row(leg.timestep, leg.level, move(leg.level, down) + up * NOISE, draws=True)
        half_noise = (RAW - move(leg.level, down, x1, d1)) / up
        shared = (leg.level.noise - middle.noise) / (leg.level.noise - leg.target.noise)
        noise = sqrt(shared) * half_noise + sqrt(1 - shared) * NOISE
        down, up = _ancestral(leg.level, leg.target)
        whole = move(leg.level, down, x1, D) + up * noise
        yield Row(plan.timestep_of(middle.sigma), middle, whole, draws=True)


def lcm(plan):
    """Latent consistency models (arXiv 2310.04378): denoise, then noise to the next level."""
    for index, leg in enumerate(taken(plan), plan.start + 1):
        scaled, data = leg.timestep * plan.config.timestep_scaling, 0.5
        clean = (data**2 * X + scaled * sqrt(scaled**2 + data**2) * D) / (scaled**2 + data**2)
        if index < len(plan.legs):
            noisy = leg.target.signal * clean + leg.target.noise * NOISE
            yield Row(leg.timestep, leg.level, noisy, draws=True)
        else:
            yield Row(leg.timestep, leg.level, clean)


def tcd(plan):
    """Trajectory consistency (arXiv 2402.19159, algorithm 4): beyond the next level, then back.

    `eta` (the paper's gamma) says how far beyond the targets of the plan lie: 0 for not at all.
    """
    for index, leg in enumerate(taken(plan), plan.start + 1):
        beyond = move(leg.level, leg.target)
        if plan.eta == 0 or index == len(plan.legs):
            yield Row(leg.timestep, leg.level, beyond)
            continue
        back = plan.legs[index].level.signal / leg.target.signal
        noisy = back * beyond + sqrt(max(1 - back**2, 0.0)) * NOISE
        yield Row(leg.timestep, leg.level, noisy, draws=True)
