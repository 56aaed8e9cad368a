"""Names for kernels that tell whether a committed result was measured with the kernels as they are now.

Every result names the kernels that it was measured with. A name is kept while the kernels compute the same: files,
functions and arguments may be renamed. A changed sum gives a new name. So a name stands for Triton's intermediate
representation of the kernels (TTIR), not for their source text.

`bench/results/kernels.json` has one entry for each name. Its fields are:

  `operator`  fprop, dgrad or wgrad.
  `name`      The name that results use: usually the hash of the first source text that compiled to this TTIR.
  `sources`   The hashes of all source texts known to compile to this TTIR. Each hash is in one entry only.
  `triton`    The version of Triton that made the TTIR: the one that `constraints.txt` pins.
  `ttir`      A hash for each launch of each variant in `bench/lowering/variants.py`: of the TTIR of its kernel, and
              of which parameters Triton may specialize.

`python -m bench lowering --identify` compiles the kernels of the checkout and adds the hash of their source text. If an
entry has the same TTIR, the hash joins that entry. Otherwise it gets a new entry, which no result names yet.

A result may have been measured before its source text had an entry. Its name is then the hash of the source text.
It counts as soon as an entry lists that hash.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritonconv.geometry import OPERATORS

ROOT = Path(__file__).parent.parent
KERNELS = ROOT / "tritonconv" / "kernels"
KNOWN = ROOT / "bench" / "results" / "kernels.json"

Entry = dict[str, Any]


def pinned() -> str:
    """Return the version of Triton that `constraints.txt` pins, which `bench lowering --identify` requires."""
    return str(re.findall(r"^triton==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0])


def read(path: Path = KNOWN) -> list[Entry]:
    """Return the entries in a file like `kernels.json`."""
    entries: list[Entry] = json.loads(path.read_text())
    return entries


def names(folder: Path = KERNELS, known: Iterable[Entry] | None = None) -> dict[str, str]:
    """Return, by operator, the name of the kernels whose source is in `folder`.

    The names come from the entries `known`, by default those of `kernels.json`. If no entry lists a source text, the
    name is the hash of that text.
    """
    return canonical(source_hashes(folder), known)


def canonical(kernels: dict[str, str], known: Iterable[Entry] | None = None) -> dict[str, str]:
    """Return `kernels` with each hash of a source text replaced by the name of the entry that lists it.

    `kernels` has a name or such a hash for each operator. The entries are `known`, by default those of `kernels.json`.
    Names stay as they are, and so do hashes that no entry lists.
    """
    named: dict[tuple[str, str], str] = {}
    for entry in read() if known is None else known:
        named |= {(entry["operator"], text): entry["name"] for text in (*entry["sources"], entry["name"])}
    return {operator: named.get((operator, text), text) for operator, text in kernels.items()}


def source_hashes(folder: Path = KERNELS) -> dict[str, str]:
    """Return, by operator, a hash of the source text of its kernels and of the files that they import (`files`)."""
    return {operator: source_hash(files(operator, folder)) for operator in OPERATORS}


def files(operator: str, folder: Path = KERNELS) -> list[Path]:
    """Return the files of an operator's kernels, and those of `tritonconv.kernels` that they import.

    This includes files that are imported by imported files. All of them are looked up in `folder`.
    """
    found = [folder / family / f"{operator}.py" for family in ("gather", "tma")]
    found += [folder / "partial_sums.py"] * (operator == "wgrad")
    for path in found:  # the list grows in the loop
        nodes = ast.walk(ast.parse(path.read_text()))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert "tritonconv.kernels" not in modules, f"{path}: import names from a module, so that it can be found"
        ours = [module.split(".")[2:] for module in modules if module.startswith("tritonconv.kernels.")]
        imported = [folder.joinpath(*parts).with_suffix(".py") for parts in ours]
        found += [path for path in dict.fromkeys(imported) if path not in found]
    return found


def source_hash(paths: Iterable[Path]) -> str:
    """Return a hash, of 12 hexadecimal digits, of the code in these files without its comments and docstrings."""
    code = [ast.unparse(_without_docstrings(ast.parse(path.read_text()))) for path in paths]
    # ast.unparse writes the same text in every version of Python; ast.dump does not.
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def identified(
    known: list[Entry], hashes: dict[str, str], ttir: dict[str, dict[str, str]], triton: str
) -> tuple[list[Entry], list[str]]:
    """Return the entries with each operator's source text added, and a line that says where for each operator.

    A source text is added to one entry of its operator, and removed from the others:

    1. to the last entry that has the same TTIR by this version of Triton,
    2. or else to the last entry that lists it already, with TTIR by another version. This version's TTIR replaces that.
    3. or else to a new entry.

    Args:
        known: The entries of `kernels.json`. They are not changed.
        hashes: The hash of each operator's source text.
        ttir: For each operator, the hashes of the TTIR that its source text compiles to, by launch.
        triton: The version of Triton that compiled it.

    Raises:
        ValueError: If an operator has entries, but none of them lists its source text, and none was made with this
            version of Triton. In this case there is no TTIR to compare with.
    """
    entries, said = [dict(entry) for entry in known], []
    for operator, source in hashes.items():
        mine, compiled = [entry for entry in entries if entry["operator"] == operator], ttir[operator]
        equal = [entry for entry in mine if entry["triton"] == triton and same(entry["ttir"], compiled)]
        stated = [entry for entry in mine if source in entry["sources"] and entry["triton"] != triton]
        if equal:
            entry, what = equal[-1], "the same TTIR"
        elif stated:
            entry, what = stated[-1], f"restated for Triton {triton}"
        elif mine and not any(entry["triton"] == triton for entry in mine):
            raise ValueError(
                f"the kernels of {operator} have a new source text and no TTIR of this Triton to compare with: "
                f"identify it with Triton {mine[-1]['triton']} first, and then with {triton}"
            )
        else:
            changed = differing(mine[-1]["ttir"], compiled) if mine else list(compiled)
            what = f"new: the TTIR of {len(changed)} of {len(compiled)} variants changed"
            entry = dict(operator=operator, name=new_name(mine, source, compiled), sources=[])
            entries.append(entry)
        for other in mine:
            other["sources"] = [text for text in other["sources"] if text != source or other is entry]
        sources = list(dict.fromkeys([*entry["sources"], source]))
        entry.update(sources=sources, triton=triton, ttir=compiled)
        said.append(f"{operator}: {entry['name']}, {what}")
    return entries, said


def new_name(mine: list[Entry], source: str, compiled: dict[str, str]) -> str:
    """Return a name for a new entry: `source`, or if an entry in `mine` has it, a hash of `source` and `compiled`.

    `mine` has the operator's entries, `source` is the hash of its source text, `compiled` has the hashes of its TTIR.

    One source text can compile to two TTIRs, because TTIR also depends on the arguments that kernels are launched with.
    """
    if any(source in (entry["name"], *entry["sources"]) for entry in mine):
        return hashlib.sha256(json.dumps([source, compiled]).encode()).hexdigest()[:12]
    return source


def same(old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether `new` has every launch of `old`, with the same TTIR."""
    return set(old) <= set(new) and not differing(old, new)


def differing(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return the launches that both have and whose TTIR differs, in the order of `old`."""
    return [variant for variant in old if variant in new and old[variant] != new[variant]]


def dump(entries: Iterable[Entry]) -> str:
    """Return the entries as JSON, with one hash a line."""
    return json.dumps(list(entries), indent=1) + "\n"
