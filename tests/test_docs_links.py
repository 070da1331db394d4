"""What the pages say exists, exists: links and their anchors, commands and their options, names of modules and keys."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command

from larstore.cli import build_app
from train.schema import Config

ROOT = Path(__file__).parents[1]
PAGES = [*(path for name in ("README", "CONTRIBUTING") if (path := ROOT / f"{name}.md").exists())]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
CODE = re.compile(r"^```[^\n]*\n.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
NAMES = re.compile(r"(?<![\w/.-])(?:larstore|preprocess|train)(?:\.[A-Za-z_]\w*)+(?![\w/])")
ENDINGS = (".py", ".yaml", ".yml", ".md", ".html", ".zarr", ".commands")  # of files, and the entry-point group
# The repository in a folder `larstore`, a run's directory, a file that the page has you write.
OF_USERS = {"larstore/constraints.txt", "configs/N.yaml", "preprocess/sources/readers/stand.py"}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    seen: dict[str, int] = {}
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        before = seen[slug] = seen.get(slug, -1) + 1
        found.append(f"{slug}-{before}" if before else slug)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{named(page)}: {target}: no such file"
        assert file.is_relative_to(ROOT), f"{named(page)}: {target} leads out of the repository"
        assert not anchor or anchor in anchors(file), f"{named(page)}: {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_references_are_defined(page):
    """Links as [words][reference]."""
    used = set(re.findall(r"\]\[([\w-]+)\]", prose(page)))
    defined = re.findall(r"^\[([\w-]+)\]: \S+$", prose(page), re.MULTILINE)
    assert sorted(used) == sorted(defined)


def test_every_page_is_found_from_the_first_ones():
    reached, left = set(), [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    while left:
        page = left.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            targets = re.findall(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)", prose(page))
            left += [(page.parent / target).resolve() for target in targets]
    missing = sorted(named(page) for page in set(PAGES) - reached)
    assert not missing, f"no page leads to {', '.join(missing)}. Fix: a link in README.md or a page of its subject"


def code_lines(page: Path) -> list[str]:
    """Lines of blocks of shell, of indented blocks, and inline code."""
    found, fence = [], None
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence is not None:
            found += [line] if fence in ("", "bash", "sh") else []
        else:
            found += [line] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
    return found


def commands_of(page: Path) -> list[list[str]]:
    """The command lines of larstore on a page, as words after "larstore"."""
    found = []
    for line in code_lines(page):
        match = re.search(r"(?:^|[\s=])larstore ([a-z][a-z-]+(?: .*)?)$", line.partition(" #")[0].strip())
        if match:
            found.append(re.split(r" (?:\||&&|;|2>|>) ?", match[1])[0].split())
    return found


def test_commands_and_options_exist():
    known = get_command(build_app()).commands
    seen = 0
    for page in PAGES:
        for name, *words in commands_of(page):
            assert name in known, f"{named(page)}: larstore {name} is no command"
            options = {
                option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
            }
            for word in words:
                option = re.match(r"--?[a-z][a-z-]*", word)
                if option:
                    seen += 1
                    assert option[0] in options | {"--help"}, f"{named(page)}: larstore {name} has no {option[0]}"
    assert seen > 100


def is_key(model: type[BaseModel], parts: list[str]) -> bool:
    """Whether dots lead through blocks of a configuration; a block of a name and arguments holds anything."""
    if not parts:
        return True
    fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    if parts[0] not in fields:
        return model.model_config.get("extra") == "allow"
    below = models_in(fields[parts[0]])
    return len(parts) == 1 or any(is_key(each, parts[1:]) for each in below)


def models_in(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in models_in(part)]


@cache
def defined(file: Path) -> frozenset[str]:
    """Names at the top of a module, and those its ``__init__`` gives on demand (as text)."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef):
                names.add(inner.name)
            elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                names.add(inner.id)
            elif isinstance(inner, ast.alias):
                names.add((inner.asname or inner.name).partition(".")[0])
            elif file.name == "__init__.py" and isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                names.add(inner.value)
    return frozenset(names)


def is_importable(name: str) -> bool:
    """Whether a module or what it defines; nothing is imported."""
    folder, parts = ROOT, name.split(".")
    for i, part in enumerate(parts):
        if (folder / part).is_dir() and (folder / part / "__init__.py").exists():
            folder /= part
            continue
        file = folder / f"{part}.py"
        if file.exists():
            return all(each in defined(file) for each in parts[i + 1 :])
        return i > 0 and all(each in defined(folder / "__init__.py") for each in parts[i:])
    return True


def resolves(name: str) -> bool:
    first, *rest = name.split(".")
    key = first == "train" and is_key(Config, [first, *rest])
    return key or is_importable(name)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_of_the_repository_exist(page):
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for path in re.findall(
            r"(?<![\w/.-])(?:larstore|preprocess|train|configs|docs|tests|notebooks)/[\w./-]+", code
        ):
            assert (ROOT / path.rstrip(".")).exists() or path in OF_USERS, f"{named(page)}: {path}: no such file"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_dotted_names_resolve(page):
    text = page.read_text(encoding="utf-8")
    for code in CODE.findall(text):
        for name in NAMES.findall(code):
            if not name.endswith(ENDINGS):
                assert resolves(name), f"{named(page)}: {name} is neither a module, what one defines, nor a key"


def test_issue_forms_are_forms():
    """As GitHub takes them; their commands exist like those of pages."""
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    known = get_command(build_app()).commands
    for form in (path for path in forms if path.stem != "config"):
        values = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert values["name"]
        assert values["description"]
        fields = [part for part in values["body"] if part["type"] != "markdown"]
        assert {part["type"] for part in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
        assert len({part["id"] for part in fields}) == len(fields)
        assert all(part["attributes"]["label"] for part in fields)
        for name in re.findall(r"`larstore ([a-z-]+)", form.read_text(encoding="utf-8")):
            assert name in known, f"{form.name}: larstore {name} is no command"
    assert len(forms) >= 3


def test_what_is_wrong_is_found(tmp_path):
    assert anchors(ROOT / "docs" / "inputs.md") >= {"bad-channels", "read-outs-for-larstore-preprocess"}
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nlarstore infer a.yaml \\\n    --name x --no-such # --later\n```\n`larstore verify --fast`\n"
    )
    assert commands_of(page) == [["infer", "a.yaml", "--name", "x", "--no-such"], ["verify", "--fast"]]
    assert all(map(resolves, ("train.schema.Config", "larstore.open", "train.transfer.freeze")))
    assert not any(
        map(resolves, ("train.schema.Nothing", "larstore.no", "train.transfer.no", "preprocess.testing_inputs"))
    )
