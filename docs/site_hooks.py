"""Hooks of MkDocs: pages of the repository's root, links to its other files, anchors as GitHub makes them.

Everything a page links to is on the site, so that it needs no network: the README is its first page, and a file such as
``configs/…`` is copied. Pages stay as they are; only their links are rewritten.
"""

import posixpath
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[#)])")  # relative ones, without their anchor
COPIES = "files"  # folder of the site for files that are no pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors of headings as on GitHub."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and every other file of the repository that a page links to."""
    pages = {f"docs/{file.src_uri}": file for file in files.documentation_pages()}
    for path, uri in ROOT_PAGES.items():
        pages[path] = File.generated(config, uri, abs_src_path=str(ROOT / path))
        files.append(pages[path])
    for path, page in pages.items():
        for target in map(partial(in_repository, path), links(page.content_string)):
            uri = site_uri(target)
            if files.get_file_from_path(uri) is None and (ROOT / target).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links lead to the site's pages and copies; an escaped bar in a table's code is a bar, as on GitHub."""
    uri = page.file.src_uri
    path = next((path for path, each in ROOT_PAGES.items() if each == uri), f"docs/{uri}")

    def rewritten(match: re.Match[str]) -> str:
        return posixpath.relpath(site_uri(in_repository(path, match[0])), posixpath.dirname(uri) or ".")

    parts = CODE.split(markdown)  # prose and code in turn
    parts[::2] = [LINK.sub(rewritten, prose) for prose in parts[::2]]
    parts[1::2] = [code if code.startswith("```") else code.replace(r"\|", "|") for code in parts[1::2]]
    return "".join(parts)


def links(markdown: str) -> Iterator[str]:
    """Targets of the relative links of a page."""
    for prose in CODE.split(markdown)[::2]:
        yield from LINK.findall(prose)


def in_repository(page: str, target: str) -> str:
    """Path in the repository of what the page at a path links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def site_uri(path: str) -> str:
    """Source URI on the site of a file of the repository."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}"
