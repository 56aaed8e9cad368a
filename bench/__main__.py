"""`python -m bench report|lowering|tune|device`: what `pytest bench` does not do."""

import argparse
import os
import sys
from importlib import import_module

import torch

COMMANDS = {
    "report": "tables and pictures of results, and what changed since older ones",
    "lowering": "what the compiler makes of every kernel, without a GPU",
    "tune": "measure the tiles for layers on this GPU, and keep the winners",
    "device": "the standing work for a GPU that is there only for minutes",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command, what in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=what, description=what)
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
    """Before anything imports triton: the kernels are interpreted only to rehearse the work for a GPU without one."""
    if command == "device" and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)


if __name__ == "__main__":
    sys.exit(main())
