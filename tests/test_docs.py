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
    text = FENCED.sub("", text)
    text = re.sub(r"<!--.*?-->|<[^>]+>|^ {4}.*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#]|\d+\.) )|\|", text):
        yield from re.split(r"(?<=[.!?])[)\"*]*\s+(?=[\"(\[*]*[A-Za-z0-9])", " ".join(block.split()))


def test_sentences_are_found() -> None:
    text = (
        "# One two\nThree `four five` six. Seven (eight).\n\n- nine\n- ten [eleven](twelve.md)\n\n| a b | c |\n|---|\n"
    )
    assert [each for each in sentences(text) if re.search(r"\w", each)] == [
        *("# One two Three code six.", "Seven (eight).", "- nine", "- ten [eleven]", "a b", "c")
    ]


@pytest.mark.parametrize("page", NAMES)
def test_sentences_are_short(page: str) -> None:
    found = sentences((ROOT / page).read_text())
    assert [each for each in found if words(each) > MOST_WORDS] == []


# Where the options of a command are declared: files that have each of them in quotes.
BENCH = ("bench/{0}/command.py", "bench/__main__.py")
MODULES = {
    "tests.sweep": ("tests/sweep/__main__.py",),
    "tests.mutants": ("tests/mutants/__main__.py",),
    "pytest bench": ("bench/conftest.py",),
    "pytest": ("tests/conftest.py", "tests/support/*.py"),
}
TARGETS = {
    "train": ("examples/mnist/arguments.py",),
    "bench": MODULES["pytest bench"],
    "compile-grid": ("bench/lowering/command.py",),
}
OF_OTHERS = {"--help", "--pdb", "--maxfail", "--editable"}  # of argparse, pytest and pip


def commands() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of each command that the documentation names, in a block or within a sentence."""
    for name, path in zip(NAMES, PAGES, strict=True):
        text = path.read_text()
        lines = [line for tag, block in FENCED.findall(text) if not tag for line in block.splitlines()]
        for code in [*lines, *re.findall(r"`([^`\n]+)`", FENCED.sub("", text))]:
            command = code.partition("  #")[0].strip()
            if re.match(r"(\S+=\S+ )*(\S*python3? |make |pytest )", command):
                yield name, command


def declared_in(command: str) -> tuple[str, ...]:
    """Return patterns of the files that declare a command's options. Raise ValueError if there is no such command."""
    if target := re.match(r"make ([\w-]+)", command):
        if not re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
            raise ValueError(f"the Makefile has no target {target[1]}")
        return TARGETS.get(target[1], MODULES["pytest"])
    if script := re.search(r"python3? (\S+\.py)", command):
        return (script[1], "examples/mnist/arguments.py")
    if bench := re.search(r"-m bench(?: ([a-z]+))?", command):
        return tuple(file.format(bench[1] or "*") for file in BENCH)
    for module, files in MODULES.items():
        if f"-m {module}" in command or command.startswith(module):
            return files
    raise ValueError(f"no such command: {command}")


def test_commands_exist() -> None:
    found = sorted(set(commands()))
    assert len(found) >= 20
    for page, command in found:
        files = [path for pattern in declared_in(command) for path in ROOT.glob(pattern)]
        assert files, f"{page}: {command}"
        known = "".join(path.read_text() for path in files)
        for option in set(re.findall(r"(?<![\w-])--[a-z][\w-]*", command)) - OF_OTHERS:
            assert f'"{option}"' in known, f"{page}: {command}: no option {option}"


def anchors(path: Path) -> set[str]:
    """Return the anchors that a link can lead to within a page, as GitHub makes them from its headings."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = FENCED.sub("", path.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
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
MADE_UP |= {"tritonconv/no_such_file.py", "tritonconv/kernels/some.py"}


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
