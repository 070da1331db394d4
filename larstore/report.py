"""Pages of HTML that open without a network: text, tables and plotly figures, the script inlined once."""

import html
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from larstore.errors import StoreError

STYLE = """
:root { color-scheme: light; --ink: #1c2733; --faint: #5d6b7a; --line: #dfe5ec; --blue: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
       font: 15px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 36px 0 8px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 8px 0; max-width: 860px; }
a { color: var(--blue); }
.sub, figcaption, .note { color: var(--faint); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 150px; }
.card b { display: block; font-size: 24px; line-height: 1.3; }
.card.main { border-color: var(--blue); background: #f2f7fd; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 10px 0; font-size: 14px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid var(--line); }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.strong td { font-weight: 600; background: #f2f7fd; }
figure { margin: 14px 0; }
.drawings { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 4px 20px; }
figcaption { font-size: 13.5px; max-width: 860px; }
pre { background: #f6f8fa; border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px; overflow-x: auto;
      font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; }
details summary { cursor: pointer; color: var(--blue); margin: 8px 0; }
"""


class Page:
    """A page that is put together from top to bottom; all text given is escaped.

    With ``refresh`` a browser loads it again every so many seconds.
    """

    def __init__(self, title: str, subtitle: str = "", refresh: int | None = None) -> None:
        self.title, self.refresh = title, refresh
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        self._has_figure = False
        if subtitle:
            self._parts.append(f'<p class="sub">{html.escape(subtitle)}</p>')

    def heading(self, text: str) -> None:
        """A section's title."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def paragraph(self, text: str, note: bool = False) -> None:
        """Running text; a note is set fainter."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>' if note else f"<p>{html.escape(text)}</p>")

    def cards(self, values: Iterable[tuple[str, str]]) -> None:
        """(label, value) pairs in boxes; the first one stands out."""
        boxes = [
            f'<div class="{kind}"><b>{html.escape(value)}</b>{html.escape(label)}</div>'
            for kind, (label, value) in zip(chain(["card main"], repeat("card")), values, strict=False)
        ]
        self._parts.append(f'<div class="cards">{"".join(boxes)}</div>')

    def table(
        self,
        head: Sequence[str],
        rows: Iterable[Sequence[Any]],
        strong: int | None = None,
        summary: str | None = None,
    ) -> None:
        """A table; numbers as the caller formats them, words left, row ``strong`` stands out.

        It is folded behind ``summary`` if there is one.
        """
        rows = [[str(cell) for cell in row] for row in rows]
        words = [any(cell and not _is_number(cell) for cell in column) for column in zip(*rows, strict=True)]
        words = words or [True] * len(head)

        def line(tag: str, cells: Sequence[str]) -> str:
            kinds = [' class="text"' if word else "" for word in words]
            return "".join(f"<{tag}{k}>{html.escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True))

        marked = ' class="strong"'
        body = [f"<tr{marked if i == strong else ''}>{line('td', row)}</tr>" for i, row in enumerate(rows)]
        table = (
            f'<div class="scroll"><table><thead><tr>{line("th", head)}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )
        self._parts.append(table if summary is None else _folded(summary, table))

    def code(self, text: str, summary: str | None = None) -> None:
        """Preformatted text, folded behind ``summary`` if there is one."""
        block = f"<pre>{html.escape(text)}</pre>"
        self._parts.append(block if summary is None else _folded(summary, block))

    def links(self, targets: Iterable[tuple[str, str]]) -> None:
        """(text, relative path) pairs in one line."""
        items = [f'<a href="{html.escape(path)}">{html.escape(text)}</a>' for text, path in targets]
        self._parts.append(f"<p>{' · '.join(items)}</p>")

    def figure(self, figure: Any, caption: str = "", script: str | None = None) -> None:
        """A plotly figure as wide as the page; ``script`` runs behind it, ``{plot_id}`` is the figure's element."""
        self._has_figure = True
        div = figure.to_html(
            include_plotlyjs=False,
            full_html=False,
            default_width="100%",
            post_script=script,
            config={"displaylogo": False, "responsive": True},
        )
        self._parts.append(f"<figure>{div}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def drawings(self, drawings: Iterable[tuple[str, str]]) -> None:
        """(SVG, caption) pairs, two in a row where there is room."""
        boxes = [f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>" for svg, caption in drawings]
        self._parts.append(f'<div class="drawings">{"".join(boxes)}</div>')

    def text(self) -> str:
        """The whole page."""
        head = f"<script>{plotly_script()}</script>" if self._has_figure else ""
        if self.refresh is not None:
            head += f'<meta http-equiv="refresh" content="{self.refresh}">'
        return document(self.title, STYLE, head, f"<main>{''.join(self._parts)}</main>")

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; StoreError where that is not possible."""
        return write_page(path, self.text())


def _folded(summary: str, block: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{block}</details>"


def document(title: str, style: str, head: str, body: str) -> str:
    """A complete HTML document; ``head`` and ``body`` are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style>{head}</head>\n<body>{body}</body></html>\n"
    )


def plotly_script() -> str:
    """The text of plotly.js, from the installed package: whoever has a figure has plotly."""
    return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def write_page(path: str | os.PathLike[str], text: str) -> Path:
    """Write a page, making its directory; StoreError where that is not possible."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}. Fix: another output path") from error
    return target


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("−", "").rstrip("%").strip().isdigit() or text == "–"
