"""The documentation: its snippets run, its commands, files and links exist, and its sentences are short."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritonconv
from tests.support.processes import ROOT

README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def snippets(language: str) -> list[tuple[str, str]]:
    """Return each fenced block in this language ("" for commands): the page that has it, and its text."""
    blocks = ((name, FENCED.findall(path.read_text())) for name, path in zip(NAMES, PAGES, strict=True))
    return [(name, text) for name, found in blocks for tag, text in found if tag == language]


@pytest.mark.parametrize("page", NAMES)
def test_every_block_is_of_a_kind_that_is_tested(page: str) -> None:
    """Blocks are Python, which runs, commands without a tag, or the picture of docs/design.md."""
    text = (ROOT / page).read_text()
    assert {tag for tag, _ in FENCED.findall(text)} <= {"", "python", "mermaid"}
    assert text.count("```") == 2 * len(FENCED.findall(text))
    assert "~~~" not in text


@pytest.mark.parametrize("page", sorted({page for page, _ in snippets("python")}))
def test_snippets_run(page: str) -> None:
    """The snippets of a page run one after the other, in one namespace."""
    names: dict[str, object] = {}
    with tritonconv.using("reference"):
        for code in [code for of, code in snippets("python") if of == page]:
            exec(compile(code, page, "exec"), names)


def test_there_are_snippets() -> None:
    first, *others = [code for page, code in snippets("python") if page == "README.md"]
    assert len(others) >= 2
    assert sum(bool(line) for line in first.splitlines()) <= 12


def words(text: str) -> int:
    """Return how many words a text has. A bar between cells is not counted, because it has no letter or digit."""
    return len(re.findall(r"\S*\w\S*", text))


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert text.count("\n") <= 150
    assert words(text) <= 1200


MOST_WORDS = 30


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a Markdown page. A heading, an item of a list and a cell of a table end a sentence too.

    Code counts as one word, and code blocks, comments and the addresses of links are left out.
    """
    text = re.sub(r"<!--.*?-->", "", FENCED.sub("", text), flags=re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"</?[a-z][^<>\n]*>", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#]|\d+\.) )|\|", text):
        yield from re.split(r"(?<=[.!?])(?<!e\.g\.|i\.e\.)[)\"*]*\s+(?=[\"(\[*]*[A-Za-z0-9])", " ".join(block.split()))


def test_sentences_are_found() -> None:
    text = """# One two
Three `four
five` six, e.g. seven. Eight (nine).

    a formula

- a < b
- c > d [ten](11.md)

| e f | g |
|---|
"""
    assert [each for each in sentences(text) if words(each)] == [
        *("# One two Three code six, e.g. seven.", "Eight (nine).", "- a < b", "- c > d [ten]", "e f", "g")
    ]


@pytest.mark.parametrize("page", NAMES)
def test_sentences_are_short(page: str) -> None:
    found = sentences((ROOT / page).read_text())
    assert [each for each in found if words(each) > MOST_WORDS] == []


# The files that declare the options of a command, each in quotes. {0} stands for the first group of the pattern.
COMMANDS = {
    r"make (train)\b": ["examples/mnist/arguments.py"],
    r"make (bench)\b": ["bench/conftest.py"],
    r"make (compile-grid)\b": ["bench/lowering/command.py"],
    r"make ([\w-]+)": ["tests/conftest.py", "tests/support/selection.py"],
    r"\S*python3? (examples/mnist/train\.py)(?= |$)": ["{0}", "examples/mnist/arguments.py"],
    r"\S*python3? (\S+\.py)(?= |$)": ["{0}"],
    r"\S*python3? -m bench$": ["bench/__main__.py"],
    r"\S*python3? -m bench (\w+)(?= |$)": ["bench/{0}/command.py"],
    r"\S*python3? -m tests\.(sweep|mutants)(?= |$)": ["tests/{0}/__main__.py"],
    r"(?:\S*python3? -m )?pytest (bench)(?= |$)": ["bench/conftest.py"],
    r"(?:\S*python3? -m )?pytest(?= -|$)": ["tests/conftest.py", "tests/support/selection.py"],
}
OF_OTHERS = {"--help", "--pdb"}  # of argparse and pytest


def commands() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of each command that the documentation names, in a block or within a sentence."""
    for name, path in zip(NAMES, PAGES, strict=True):
        text = path.read_text()
        lines = [line for tag, block in FENCED.findall(text) if not tag for line in block.splitlines()]
        for code in [*lines, *re.findall(r"`([^`\n]+)`", FENCED.sub("", text))]:
            command = code.partition("  #")[0].strip()
            if re.match(r"(\S+=\S+ )*(\S*python3? |make |pytest )", command):
                yield name, command


def declared_in(command: str) -> list[Path]:
    """Return the files that declare the options of a command. Raise ValueError if there is no such command."""
    command = re.sub(r"^(\S+=\S+ )+", "", command)
    for pattern, files in COMMANDS.items():
        if found := re.match(pattern, command):
            paths = [ROOT / file.format(*found.groups()) for file in files]
            target = found[1] if command.startswith("make ") else None
            is_target = target is None or re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            if is_target and all(path.exists() for path in paths):
                return paths
            break
    raise ValueError(f"no such command: {command}")


def unknown_options(command: str) -> set[str]:
    """Return the options in a command that its files do not declare."""
    declared = "".join(path.read_text() for path in declared_in(command))
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", command)) - OF_OTHERS
    return {option for option in options if f'"{option}"' not in declared}


def test_commands_exist() -> None:
    found = sorted(set(commands()))
    assert len(found) >= 20
    assert [(page, command) for page, command in found if unknown_options(command)] == []


@pytest.mark.parametrize(
    "command",
    [
        *("make no-such-target", "python -m bench nonsense", "python -m tests.sweepstakes", "pytest nonsense"),
        *("python nonsense.py --epochs 3", "python -m bench.nonsense"),
    ],
)
def test_commands_that_do_not_exist_are_found(command: str) -> None:
    with pytest.raises(ValueError, match="no such command"):
        declared_in(command)


def test_options_that_do_not_exist_are_found() -> None:
    assert unknown_options("python -m bench report --nonsense --publish") == {"--nonsense"}
    assert unknown_options("python examples/minimal.py --epochs 3") == {"--epochs"}
    assert unknown_options('make train ARGS="--local --nonsense"') == {"--nonsense"}


def anchors(path: Path) -> set[str]:
    """Return the anchors that a link can lead to within a page, as GitHub makes them from its headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = FENCED.sub("", path.read_text())
    assert not re.search(r"\]\[|^\[[^\]]+\]:", text, re.MULTILINE), "a link is written [text](address)"
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)
    for link in links:
        if "://" not in link:
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}"


# A file or folder of the repository, perhaps with a * in it.
NAMED = re.compile(
    r"(?<![\w/.])(?:tritonconv|reference|tests|bench|examples|docs)/[\w/*.-]*?(?:\.(?:py|md|csv|json)\b|/(?=[`\s,)]))"
)


# Those that tests make up.
MADE_UP = {"tests/test_a.py", "tests/test_c.py", "tests/test_x.py", "tests/nonsense.py"}
MADE_UP |= {"tritonconv/no_such_file.py", "tritonconv/kernels/some.py", "bench/results/nothing-switches.json"}


def named() -> Iterator[tuple[str, str]]:
    """Yield each file or folder that a page, the Makefile or a Python file names, after the place that names it.

    The names in `MADE_UP` are left out.
    """
    code = [
        path
        for folder in ("tritonconv", "reference", "bench", "examples", "tests")
        for path in (ROOT / folder).rglob("*.py")
    ]
    for path in [*PAGES, ROOT / "Makefile", *code]:
        for found in NAMED.findall(path.read_text()):
            if found not in MADE_UP:
                yield path.relative_to(ROOT).as_posix(), found


def test_files_that_are_named_exist() -> None:
    found = set(named())
    assert len(found) >= 50
    assert [(place, name) for place, name in found if not list(ROOT.glob(name))] == []
