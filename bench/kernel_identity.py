"""Which committed results were measured with the kernels as they are now.

A result names the kernels that it was measured with. The name must survive what changes no machine code, such as a new
name of a file, a function or an argument. It must not survive a changed sum. Therefore a name stands for what Triton
makes of the kernels (TTIR), and `bench/results/kernels.json` says which source texts give the same:

  `operator`  fprop, dgrad or wgrad
  `name`      what results call these kernels, as a rule the hash of the first source text that gave them
  `sources`   the hashes of all source texts that are known to give the same TTIR; each is in one entry
  `triton`    the version of Triton whose TTIR this is: the one that `constraints.txt` pins
  `ttir`      a hash of the TTIR of each variant in `bench/lowering/variants.py`, and of what Triton specializes

`python -m bench lowering --identify` adds the source text of the checkout: to the entry of the same TTIR, if there is
one, and else as a new entry, for which nothing has been measured yet. A result that was measured before that has the
hash of its source text for a name, and counts as soon as the source text has an entry.
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
    """The version of Triton that the TTIR is of."""
    return str(re.findall(r"^triton==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0])


def read(path: Path = KNOWN) -> list[Entry]:
    entries: list[Entry] = json.loads(path.read_text())
    return entries


def names(folder: Path = KERNELS, known: Iterable[Entry] | None = None) -> dict[str, str]:
    """For each operator the name of its kernels. A source text that is in no entry is its own name."""
    return canonical(source_hashes(folder), known)


def canonical(kernels: dict[str, str], known: Iterable[Entry] | None = None) -> dict[str, str]:
    """For each operator the name of its kernels, which are given by their name or by the hash of a source text."""
    named: dict[tuple[str, str], str] = {}
    for entry in read() if known is None else known:
        named |= {(entry["operator"], text): entry["name"] for text in (*entry["sources"], entry["name"])}
    return {operator: named.get((operator, text), text) for operator, text in kernels.items()}


def source_hashes(folder: Path = KERNELS) -> dict[str, str]:
    """For each operator a hash of its kernels and what they import, as code: comments and docstrings do not count."""
    return {operator: source_hash(files(operator, folder)) for operator in OPERATORS}


def files(operator: str, folder: Path = KERNELS) -> list[Path]:
    """The files of an operator's kernels, and of what they import."""
    found = [folder / family / f"{operator}.py" for family in ("gather", "tma")]
    found += [folder / "partial_sums.py"] * (operator == "wgrad")
    for path in found:  # grows
        nodes = ast.walk(ast.parse(path.read_text()))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        assert "tritonconv.kernels" not in modules, f"{path}: import names from a module, so that it can be found"
        ours = [module.split(".")[2:] for module in modules if module.startswith("tritonconv.kernels.")]
        imported = [folder.joinpath(*parts).with_suffix(".py") for parts in ours]
        found += [path for path in dict.fromkeys(imported) if path not in found]
    return found


def source_hash(paths: Iterable[Path]) -> str:
    code = [ast.unparse(_without_docstrings(ast.parse(path.read_text()))) for path in paths]
    # unparse, unlike dump, writes the same in every version of Python.
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def identified(
    known: list[Entry], hashes: dict[str, str], ttir: dict[str, dict[str, str]], triton: str
) -> tuple[list[Entry], list[str]]:
    """`known` with the source texts of these hashes, which give this TTIR, and one line for each operator about it.

    Raises ValueError for a source text that is not known and has no entry of this version of Triton beside it: what it
    would have to be compared with is not there.
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
            raise ValueError(f"{operator}: identify it with Triton {mine[-1]['triton']} first, and then with {triton}")
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
    """The hash of the source text, unless that is taken: TTIR also depends on what kernels are launched with."""
    if any(source in (entry["name"], *entry["sources"]) for entry in mine):
        return hashlib.sha256(json.dumps([source, compiled]).encode()).hexdigest()[:12]
    return source


def same(old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether variants that both have give the same TTIR, and none is gone."""
    return set(old) <= set(new) and not differing(old, new)


def differing(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The variants whose TTIR differs."""
    return [variant for variant in old if variant in new and old[variant] != new[variant]]


def dump(entries: Iterable[Entry]) -> str:
    """The entries as JSON, with a variant to a line."""
    return json.dumps(list(entries), indent=1) + "\n"
