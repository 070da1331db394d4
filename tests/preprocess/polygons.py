"""Convex polygons as lists of corners (y, z), in plain Python: what oracles cut and measure."""


def part_below(points, a, b, level):
    """The part of a polygon where a·y + b·z ≤ level; none of its corners may be left."""
    kept = []
    for (y0, z0), (y1, z1) in zip(points, points[1:] + points[:1], strict=True):
        d0, d1 = a * y0 + b * z0 - level, a * y1 + b * z1 - level
        if d0 <= 0:
            kept.append((y0, z0))
        if d0 * d1 < 0:
            f = d0 / (d0 - d1)
            kept.append((y0 + f * (y1 - y0), z0 + f * (z1 - z0)))
    return kept


def polygon_area(points):
    """Area of a polygon, by the shoelace formula."""
    rolled = points[1:] + points[:1]
    return abs(sum(y0 * z1 - y1 * z0 for (y0, z0), (y1, z1) in zip(points, rolled, strict=True))) / 2
