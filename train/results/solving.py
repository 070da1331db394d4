"""Charges of an image's voxels from its wires' charges, by least squares: the classical solver, slice by slice.

Of one image the store has, for each voxel v and plane p, the charge c_p(v) that tiling gave it: each wire's charge is
spread over all active pixels along the wire, true or not. The solver turns that round. In each slice (the ticks of
one x), for each wire w of each plane:

    charge of the wires   W_w = Σ_v (w's part of c_p(v)),   equations   W_w = Σ_v a_w(v) q(v),   q(v) ≥ 0

a_w(v) is the part of the voxel's area on the strip of w (`wire_shares`), and q(v), one charge for all planes, is looked
for; voxels that are not kept have none. Slices have nothing to do with each other: all of them are one block-diagonal
system, which is solved at once.

Two approximations. The store keeps c_p(v) summed over the voxel's wires, so that which part of it came from which wire
is estimated: the wires' charges per area D_w are fitted to c_p(v) ~ Σ_w a_w(v) D_w by ``PASSES`` multiplicative
(Richardson-Lucy) steps, and c_p(v) is divided in proportion to a_w(v) D_w. Every step keeps the sum over the wires
equal to that over the voxels. And the charge of a voxel is taken to be spread evenly over its area.

So wires that cross the same voxels are hardly told apart, and both sides of the equations are seen through the voxels:
multiplied by K, which spreads each wire's charge evenly along it, to voxels, and gathers it on their wires again,

    K_wu = Σ_v a_w(v) a_u(v) / Σ_v a_u(v)

It keeps sums, and makes one equation of wires that share all their voxels.

A voxel in which a bad channel or a part without wires stood in for a plane (not live) tells nothing about the plane:
D_w is fitted to the others. A wire that has less than half its area in live voxels gives no equation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse
from scipy.sparse.linalg import lsmr

from larstore.errors import ConfigError, InputError

METHODS = ("nnls", "lasso", "lsmr")
DAMP = 0.2
PENALTY = 200.0  # electrons
PASSES = 5  # more come nearer to the noise, not to the truth (measured on simulated beam events)
LEAST_LIVE = 0.5  # of a wire's area
MAX_ITERATIONS = 3000
CONVERGED = 1e-4  # of the wires' root mean square

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WireSystem:
    """The equations ``matrix @ charge = measured`` of one image.

    Attributes:
        matrix: (equations, voxels) sparse: the part of a voxel's charge that the wire gets: K a, see the module.
        measured: (equations,) charge of the wire in the slice, electrons: K W.
        x, plane, wire: (equations,) int64: slice, plane, and column of the plane's ``shares``; ascending by plane, x
            and wire.
    """

    matrix: sparse.csr_array
    measured: Floats
    x: npt.NDArray[np.int64]
    plane: npt.NDArray[np.int64]
    wire: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """``charge`` (voxels,) electrons, 0 for voxels that are not kept; ``converged``: whether it is the least."""

    charge: Floats
    iterations: int
    converged: bool


def wire_system(
    coords: npt.NDArray[Any], charge: npt.NDArray[Any], live: npt.NDArray[Any], shares: Sequence[sparse.csr_array]
) -> WireSystem:
    """The equations of all slices of an image; see the module for what they are.

    Args:
        coords: (n, 3) whole numbers x, y, z, unique, in any order.
        charge: (n, planes) electrons.
        live: (n,) bit p is set where plane p's charge comes from real wires only.
        shares: of each plane (n, wires) sparse, the parts of each voxel's area on its wires; rows sum to 1 or 0.

    Raises:
        InputError: shapes that do not belong together, or a charge that is not finite.
    """
    n = len(coords)
    shapes = [coords.shape[1:] == (3,), charge.shape == (n, len(shares)), live.shape == (n,)]
    if not all(shapes) or any(each.shape[0] != n for each in shares):
        raise InputError(
            f"coords {coords.shape}, charge {charge.shape}, live {live.shape} and shares "
            f"{[each.shape for each in shares]} do not belong together. Fix: (n, 3), (n, planes), (n,), and for each "
            "plane (n, wires)"
        )
    values = np.asarray(charge, np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"charge of voxel {int(np.argmin(np.isfinite(values).all(axis=1)))} is not finite. Fix: run larstore verify"
        )
    slices, number = np.unique(np.asarray(coords[:, 0], np.int64), return_inverse=True)
    parts = []
    for p, each in enumerate(shares):
        known, matrix = slice_wires(number, each)
        sums, told = wire_sums(matrix, values[:, p], (live >> p & 1).astype(bool))
        x, wire = np.divmod(known[told], each.shape[1])
        own = matrix[told]
        along = sparse.csr_array(sparse.diags_array(_ratio(np.ones(len(x)), own.sum(axis=1))) @ own).T
        seen = own @ along
        parts.append((seen @ own, seen @ sums[told], slices[x], np.full(len(x), p), wire))
    matrices, *columns = zip(*parts, strict=True)
    return WireSystem(sparse.csr_array(sparse.vstack(matrices)), *(np.concatenate(column) for column in columns))


def slice_wires(
    number: npt.NDArray[np.int64], share: sparse.csr_array
) -> tuple[npt.NDArray[np.int64], sparse.csr_array]:
    """The wires of a plane, each slice's apart: (rows,) keys slice × wires + wire, ascending, and (rows, n) shares.

    Args:
        number: (n,) slice of each voxel, from 0.
        share: (n, wires) sparse: the parts of each voxel's area on the plane's wires.
    """
    entries = sparse.coo_array(share)
    keys = number[entries.row] * np.int64(share.shape[1]) + entries.col
    known, row = np.unique(keys, return_inverse=True)
    return known, sparse.csr_array((entries.data, (row, entries.row)), shape=(len(known), len(number)))


def wire_sums(
    matrix: sparse.csr_array, charge: Floats, live: npt.NDArray[np.bool_], passes: int = PASSES
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Charges of wires from those of the voxels they cross, and whether enough live voxels tell of each.

    Args:
        matrix: (wires, voxels) the part of each voxel's area on each wire.
        charge: (voxels,) of one plane. What is negative is divided by area alone.
        live: (voxels,) whether the plane is live there.

    Returns:
        (wires,) electrons and (wires,) bool. Where all voxels are live and on wires, the first sum to the charge.
    """
    area, live_area = (np.asarray(matrix @ weight) for weight in (np.ones(len(live)), live.astype(np.float64)))
    positive, negative = np.where(live, np.maximum(charge, 0.0), 0.0), np.where(live, np.minimum(charge, 0.0), 0.0)
    density = _ratio(matrix @ positive, live_area)
    by_voxel = sparse.csr_array(matrix.T)
    for _ in range(passes):
        density = density * _ratio(matrix @ _ratio(positive, by_voxel @ density), live_area)
    return (density + _ratio(matrix @ negative, live_area)) * area, live_area >= LEAST_LIVE * area


def solve_charges(
    system: WireSystem,
    kept: npt.NDArray[np.bool_],
    method: str = "nnls",
    *,
    damp: float = DAMP,
    penalty: float = PENALTY,
) -> Solution:
    """Charges q of the kept voxels that explain the wires' charges W best.

    ``nnls`` has the least ½|A q - W|² + ½ damp² |q|² with q ≥ 0 (SciPy's L-BFGS-B); ``lasso`` the least of that
    + penalty · Σ q, which leaves fewer voxels with charge; ``lsmr`` the least of the first with any q, by SciPy's LSMR,
    and negative charges are then set to 0.

    Args:
        kept: (voxels,) which voxels may hold charge.
        damp: without it voxels that the wires cannot tell apart would share their charge in an arbitrary way. It costs
            some charge: 2 % at 0.2 on true voxels of simulated beam events.
        penalty: electrons, of ``lasso`` alone.

    Raises:
        ConfigError: an unknown method, or a damp or penalty below 0.
        InputError: ``kept`` is not one boolean a voxel.
    """
    check_settings(method, damp, penalty)
    n = system.matrix.shape[1]
    if kept.shape != (n,) or kept.dtype != bool:
        raise InputError(f"kept has shape {kept.shape} and type {kept.dtype}. Fix: one boolean for each of {n} voxels")
    charge = np.zeros(n)
    columns = system.matrix[:, np.flatnonzero(kept)]
    used = np.diff(columns.indptr) > 0  # wires without a kept voxel change nothing
    matrix, measured = columns[used], system.measured[used]
    scale = float(np.sqrt(np.mean(measured**2))) if len(measured) else 0.0
    if scale == 0.0:
        return Solution(charge, 0, True)
    if method == "lsmr":
        found, stop, iterations = lsmr(
            matrix, measured / scale, damp=damp, atol=1e-10, btol=1e-10, conlim=0, maxiter=MAX_ITERATIONS
        )[:3]
        charge[kept] = scale * np.maximum(found, 0.0)
        return Solution(charge, int(iterations), int(stop) != 7)
    linear = penalty / scale if method == "lasso" else 0.0
    found, iterations, converged = _bounded(matrix, measured / scale, damp, linear)
    charge[kept] = scale * found
    return Solution(charge, iterations, converged)


def check_settings(method: str, damp: float, penalty: float) -> None:
    """ConfigError for what ``solve_charges`` cannot take."""
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is none. Fix: one of {', '.join(METHODS)}")
    for name, value in (("damp", damp), ("penalty", penalty)):
        if not 0 <= value < np.inf:
            raise ConfigError(f"{name} = {value}. Fix: 0 or more")


def _bounded(matrix: sparse.csr_array, measured: Floats, damp: float, linear: float) -> tuple[Floats, int, bool]:
    """Least ½|A q - W|² + ½ damp² |q|² + linear · Σ q with q ≥ 0, the iterations it took, and whether it is there."""
    transposed = sparse.csr_array(matrix.T)

    def value_and_slope(q: Floats) -> tuple[float, Floats]:
        rest = matrix @ q - measured
        value = 0.5 * rest @ rest + 0.5 * damp**2 * q @ q + linear * q.sum()
        return float(value), transposed @ rest + damp**2 * q + linear

    options = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-6}
    result = optimize.minimize(
        value_and_slope,
        np.zeros(matrix.shape[1]),
        jac=True,
        method="L-BFGS-B",
        bounds=optimize.Bounds(0.0, np.inf),
        options=options,
    )
    slope = value_and_slope(result.x)[1]
    # At the least no slope is left, but into the bound. Its own report also fails where rounding ends the search there.
    left = np.abs(result.x - np.maximum(result.x - slope, 0.0)).max(initial=0.0)
    return result.x, int(result.nit), bool(left <= CONVERGED)


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)
