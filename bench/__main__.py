"""The commands `python -m bench report|lowering|host|tune|train|device`. `pytest bench` times layers instead."""

import argparse
import os
import sys
from importlib import import_module

import torch

DESCRIPTION = """\
Tools around the benchmark. The benchmark itself is `make bench`, or `pytest bench`, which times layers and passes.

Each command has its own --help. The exit status is 0 if all went well, 1 if something is wrong, worse or failed, and 2
if the arguments or files are not usable."""

COMMANDS = {
    "report": "make tables and pictures of benchmark results, and compare runs (no GPU needed)",
    "lowering": "compile the layers' kernels, or those of your own layer, and report on their code (no GPU needed)",
    "host": "compare the host's time of a call with torch's (no GPU needed)",
    "tune": "measure which tile is fastest for each layer, and keep it (needs a GPU)",
    "train": "time training steps of whole models, and compare loss curves (tiny models without a GPU)",
    "device": "check the kernels and time the layers in seven minutes (needs a GPU; rehearses without one)",
}


def main() -> int:
    """Run the command that the arguments name. Return its exit status, or 2 if it raises ValueError or OSError."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench", description=DESCRIPTION, formatter_class=raw)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command, what in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=what, description=what, formatter_class=raw)
        if command in sys.argv[1:2]:
            choose_interpreter(command)
            module = import_module(f"bench.{command}.command")
            module.add_arguments(subparser)
            subparser.set_defaults(main=module.main)
    args = parser.parse_args()
    try:
        status: int = args.main(args)
    except (ValueError, OSError) as error:
        print(f"{parser.prog} {args.command}: {error}", file=sys.stderr)
        return 2
    return status


def choose_interpreter(command: str) -> None:
    """Switch Triton's interpreter on for `bench device` without a GPU. Switch it off in all other cases.

    A pretended GPU needs no interpreter. This must happen before triton is imported.
    """
    pretended = {"--plan", "--rehearse"} & set(sys.argv)
    if command == "device" and not torch.cuda.is_available() and not pretended:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)


if __name__ == "__main__":
    sys.exit(main())
