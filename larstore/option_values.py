"""Values that command lines are given as text: ranges and lists of numbers. Wrong ones are wrong usage."""

import typer


def inclusive_range(text: str | None, option: str) -> tuple[int, int] | None:
    """``A:B`` or ``A`` as an inclusive range; BadParameter that names ``option`` for anything else."""
    if text is None:
        return None
    first, colon, last = text.partition(":")
    try:
        values = int(first), int(last if colon else first)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: give A:B (inclusive) or A", param_hint=option) from error
    if values[0] > values[1]:
        raise typer.BadParameter(f"{text!r}: is empty; give the smaller number first", param_hint=option)
    return values


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers with commas between; BadParameter that names ``option`` for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: write whole numbers, as in 1,5", param_hint=option) from error


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between; BadParameter that names ``option`` for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: write numbers, as in 0,0.05", param_hint=option) from error
