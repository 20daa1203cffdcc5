"""Curvature of any loss: Hessians, certified counts of negative eigenvalues, extreme eigenpairs, spectral density.

    found = inertia(problem.loss, params)          # found.negative ways down, found.undecided not sure
    lowest = spectrum(problem.loss, params, k=5)   # with residuals: an eigenvalue lies within each

All functions take ``loss(params) -> scalar`` and a pytree of floats, in float32 or float64. They are pure: all but
``inertia(method="ldl")`` run under jit and vmap, and over thousands of points in a sweep:

    measure = lambda params: inertia(problem.loss, params).arrays()
    ds = sweep.run(process.evaluate(measure, points), {"point": range(1000)}, seed=0, steps=1)
"""

from jaxsoft.curvature.certificate import Inertia, inertia
from jaxsoft.curvature.lanczos import Spectrum, spectrum
from jaxsoft.curvature.products import (
    Composite,
    Preconditioner,
    gauss_newton,
    gauss_newton_product,
    hessian,
    hvp,
    layer_blocks,
    value_and_grad,
)
from jaxsoft.curvature.stochastic import Density, Estimate, density, gradient_overlap, sharpness, trace

__all__ = [
    "Composite",
    "Density",
    "Estimate",
    "Inertia",
    "Preconditioner",
    "Spectrum",
    "density",
    "gauss_newton",
    "gauss_newton_product",
    "gradient_overlap",
    "hessian",
    "hvp",
    "inertia",
    "layer_blocks",
    "sharpness",
    "spectrum",
    "trace",
    "value_and_grad",
]
