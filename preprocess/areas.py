"""Areas of pixels on strips: exact polygons, rounded to thousandths."""

import numpy as np
from numba import njit

TILE = 4  # pixels a side: 16 = the bits of a mask
PERMILLE = 1000  # areas are kept in thousandths of a pixel


@njit(cache=True, nogil=True)
def below(level, a, b):  # type: ignore[no-untyped-def]
    """Share of a square's area up to ``level`` along a normal on which its sides measure a, b ≥ 0."""
    if b > a:
        a, b = b, a
    if level <= 0.0:
        return 0.0
    if level >= a + b:
        return 1.0
    if b < 1e-12:
        return level / a
    if level < b:
        return level * level / (2.0 * a * b)
    if level <= a:
        return (level - 0.5 * b) / a
    rest = a + b - level
    return 1.0 - rest * rest / (2.0 * a * b)


@njit(cache=True, nogil=True)
def clip(ys, zs, n, ny, nz, level, out_y, out_z):  # type: ignore[no-untyped-def]
    """Sutherland–Hodgman: the part of polygon (ys, zs)[:n] where ny·y + nz·z ≤ level; returns its corner count."""
    m = 0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        here = ny * ys[i] + nz * zs[i] - level
        there = ny * ys[j] + nz * zs[j] - level
        if here <= 0.0:
            out_y[m], out_z[m] = ys[i], zs[i]
            m += 1
        if (here < 0.0 < there) or (there < 0.0 < here):
            f = here / (here - there)
            out_y[m], out_z[m] = ys[i] + f * (ys[j] - ys[i]), zs[i] + f * (zs[j] - zs[i])
            m += 1
    return m


@njit(cache=True, nogil=True)
def cut_area(y, z, pixel, ny, nz, low, high, begin, end, polygons):  # type: ignore[no-untyped-def]
    """Share of the pixel at (y, z) inside a strip that is cut off along the wire; ``polygons`` (4, 16) is scratch."""
    ay, az, by, bz = polygons[0], polygons[1], polygons[2], polygons[3]
    ay[0], ay[1], ay[2], ay[3] = y, y, y + pixel, y + pixel
    az[0], az[1], az[2], az[3] = z, z + pixel, z + pixel, z
    n = clip(ay, az, 4, ny, nz, high, by, bz)
    n = clip(by, bz, n, -ny, -nz, -low, ay, az)
    if end < np.inf:
        n = clip(ay, az, n, nz, -ny, end, by, bz)
        ay, az, by, bz = by, bz, ay, az
    if begin > -np.inf:
        n = clip(ay, az, n, -nz, ny, -begin, by, bz)
        ay, az, by, bz = by, bz, ay, az
    total = 0.0
    for i in range(n):
        j = i + 1 if i + 1 < n else 0
        # Relative to the pixel, so that a large coordinate costs no digits.
        total += (ay[i] - y) * (az[j] - z) - (ay[j] - y) * (az[i] - z)
    return abs(0.5 * total) / (pixel * pixel)


@njit(cache=True, nogil=True)
def pack_tile(  # type: ignore[no-untyped-def]
    columns, shares, n, marks, write, entry, row, first, out_column, out_pixels, out_layer, out_area
):  # fmt: skip
    """Entries and layers of one plane in a tile from its n columns' areas; returns how many of each.

    Where a pixel is divided in two, a layer holds the first part, and the other column has the rest. What is divided
    further has a layer for each part. ``marks`` (3, 16) is scratch.
    """
    halved, seen, layer = marks[0], marks[1], marks[2]
    for bit in range(TILE * TILE):
        parts, total = 0, 0
        for i in range(n):
            permille = int(np.rint(shares[i, bit]))
            parts += permille > 0
            total += max(0, permille)
        halved[bit] = parts == 2 and total == PERMILLE
        seen[bit] = 0
    n_entries, n_layers = 0, 1
    for i in range(n):
        for bit in range(TILE * TILE):
            layer[bit] = -1
            if int(np.rint(shares[i, bit])) > 0:
                layer[bit] = 0 if halved[bit] else seen[bit]
                n_layers = max(n_layers, layer[bit] + 1)
        for k in range(n_layers):
            pixels = 0
            for bit in range(TILE * TILE):
                if layer[bit] == k:
                    pixels |= 1 << bit
                    if seen[bit] and halved[bit]:
                        pixels |= 1 << bit + TILE * TILE
                    elif write:
                        out_area[row + k, bit] = int(np.rint(shares[i, bit]))
                    seen[bit] += 1
            if pixels:
                if write:
                    out_column[entry + n_entries] = columns[i]
                    out_pixels[entry + n_entries] = pixels
                    out_layer[entry + n_entries] = row + k - first
                n_entries += 1
    return n_entries, n_layers


@njit(cache=True, nogil=True)
def fill_plane(  # type: ignore[no-untyped-def]
    ny, nz, low, high, begin, end, column, none, grid, patches_z, columns, shares, write, sizes,
    layers, first, out_column, out_pixels, out_layer, out_area,
):  # fmt: skip
    """Areas of one plane, tile by tile: counts entries to ``sizes`` and layers to ``layers``, or writes from there on.

    ``first``: row of the tile's first layer, of whatever plane.
    """
    origin_y, origin_z, pixel, n_y, n_z = grid
    a, b = pixel * abs(ny), pixel * abs(nz)
    shift = pixel * (min(ny, 0.0) + min(nz, 0.0))
    polygons, marks = np.empty((4, 16)), np.empty((3, TILE * TILE), np.int64)
    for tile in range(sizes.shape[0]):
        patch = tile >> 6
        y0, z0 = TILE * (8 * (patch // patches_z) + ((tile >> 3) & 7)), TILE * (8 * (patch % patches_z) + (tile & 7))
        rows, cols = min(TILE, n_y - y0), min(TILE, n_z - z0)
        if rows <= 0 or cols <= 0:
            continue
        least = (origin_y + pixel * y0) * ny + (origin_z + pixel * z0) * nz + TILE * shift
        most = least + TILE * (a + b)
        wire, last = np.searchsorted(high, least), np.searchsorted(low, most)
        used = 0
        for w in range(wire, last):
            # Keep the columns sorted; a channel may come with several segments.
            at = used
            while at > 0 and columns[at - 1] >= column[w]:
                at -= 1
            if at == used or columns[at] != column[w]:
                for i in range(used, at, -1):
                    columns[i] = columns[i - 1]
                    shares[i] = shares[i - 1]
                columns[at] = column[w]
                shares[at] = 0.0
                used += 1
            uncut = begin[w] == -np.inf and end[w] == np.inf
            for iy in range(rows):
                y = origin_y + pixel * (y0 + iy)
                for iz in range(cols):
                    z = origin_z + pixel * (z0 + iz)
                    corner = y * ny + z * nz + shift
                    if high[w] <= corner or low[w] >= corner + a + b:
                        continue
                    if uncut:
                        # Rounding the borders, not the shares: neighbours' areas sum to a whole pixel exactly.
                        share = np.rint(PERMILLE * below(high[w] - corner, a, b))
                        share -= np.rint(PERMILLE * below(low[w] - corner, a, b))
                    else:
                        share = PERMILLE * cut_area(y, z, pixel, ny, nz, low[w], high[w], begin[w], end[w], polygons)
                    shares[at, TILE * iy + iz] += share
        columns[used] = none
        for y in range(TILE):
            for z in range(TILE):
                bit = TILE * y + z
                rest = float(PERMILLE)
                for i in range(used):
                    rest -= shares[i, bit]
                shares[used, bit] = rest if y < rows and z < cols else 0.0
        out = out_column, out_pixels, out_layer, out_area
        if write:
            pack_tile(columns, shares, used + 1, marks, True, sizes[tile], layers[tile], first[tile], *out)
        else:
            sizes[tile], layers[tile] = pack_tile(columns, shares, used + 1, marks, False, 0, 0, 0, *out)
