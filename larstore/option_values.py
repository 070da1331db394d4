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


def pairs(text: str, option: str) -> dict[str, str]:
    """NAME=VALUE with commas between; BadParameter that names ``option`` for anything else."""
    found = dict(part.partition("=")[::2] for part in text.split(","))
    if not all(name and value for name, value in found.items()) or len(found) < text.count(",") + 1:
        message = f"{text!r}: write NAME=VALUE, each name once, as in 13=cosmic,211=beam"
        raise typer.BadParameter(message, param_hint=option)
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between; BadParameter that names ``option`` for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: write numbers, as in 0,0.05", param_hint=option) from error
