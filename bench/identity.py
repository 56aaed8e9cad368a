"""Which committed results were measured with the kernels as they are now.

A result names the kernels that it was measured with. The name must survive what changes no machine code, such as
another name of a file, a function or an argument, and must not survive a changed sum. Therefore a name stands for what
Triton makes of the kernels (TTIR), and `bench/results/kernels.json` says which source texts give the same:

  `operator`  fprop, dgrad or wgrad
  `name`      what results call these kernels: the hash of the first source text that gave them
  `sources`   the hashes of all source texts that are known to give the same TTIR
  `triton`    the version of Triton whose TTIR this is
  `ttir`      a hash of the TTIR of each variant in `bench/lowering/variants.py`

`python -m bench lowering --identify` adds the source text of the checkout: to the entry of the same TTIR, if there is
one, and else as a new entry, for which nothing has been measured yet.
"""

import ast
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritonconv.geometry import OPERATORS

ROOT = Path(__file__).parent.parent
KERNELS = ROOT / "tritonconv" / "kernels"
KNOWN = ROOT / "bench" / "results" / "kernels.json"

Entry = dict[str, Any]


def read(path: Path = KNOWN) -> list[Entry]:
    entries: list[Entry] = json.loads(path.read_text())
    return entries


def names(folder: Path = KERNELS, known: Iterable[Entry] | None = None) -> dict[str, str]:
    """For each operator the name of its kernels. A source text that is in no entry is its own name."""
    hashes, entries = source_hashes(folder), read() if known is None else known
    named = {(entry["operator"], source): entry["name"] for entry in entries for source in entry["sources"]}
    return {operator: named.get((operator, source), source) for operator, source in hashes.items()}


def source_hashes(folder: Path = KERNELS) -> dict[str, str]:
    """For each operator a hash of its kernels and what they import, as code: comments and docstrings do not count."""
    return {operator: source_hash(files(operator, folder)) for operator in OPERATORS}


def files(operator: str, folder: Path = KERNELS) -> list[Path]:
    """The files of an operator's kernels, and of what they import."""
    found = [folder / f"{operator}.py", folder / f"{operator}_tiled.py"]
    for path in found:  # grows
        nodes = ast.walk(ast.parse(path.read_text()))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
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
        mine = [entry for entry in entries if entry["operator"] == operator]
        compiled = ttir[operator]
        by_source = [entry for entry in mine if source in entry["sources"]]
        by_ttir = [entry for entry in mine if entry["triton"] == triton and same(entry["ttir"], compiled)]
        if by_source and by_source[-1]["triton"] != triton:
            by_source[-1].update(triton=triton, ttir=compiled)
            said.append(f"{operator}: {by_source[-1]['name']}, restated for Triton {triton}")
        elif by_ttir:
            entry = by_ttir[-1]
            entry["sources"] = list(dict.fromkeys([*entry["sources"], source]))
            entry["ttir"] = compiled
            said.append(f"{operator}: {entry['name']}, the same TTIR")
        elif mine and not any(entry["triton"] == triton for entry in mine):
            raise ValueError(f"{operator}: identify it with Triton {mine[-1]['triton']} first, and then with {triton}")
        else:
            entries.append(dict(operator=operator, name=source, sources=[source], triton=triton, ttir=compiled))
            changed = differing(mine[-1]["ttir"], compiled) if mine else list(compiled)
            said.append(f"{operator}: {source}, new: the TTIR of {len(changed)} of {len(compiled)} variants changed")
    return entries, said


def same(old: dict[str, str], new: dict[str, str]) -> bool:
    """Whether variants that both have give the same TTIR, and none is gone."""
    return set(old) <= set(new) and not differing(old, new)


def differing(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The variants whose TTIR differs."""
    return [variant for variant in old if variant in new and old[variant] != new[variant]]


def dump(entries: Iterable[Entry]) -> str:
    """The entries as JSON, with a variant to a line."""
    return json.dumps(list(entries), indent=1) + "\n"
