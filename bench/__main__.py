"""`python -m bench report|lowering|tune|device`: what `pytest bench` does not do."""

import argparse
import os
import sys
from importlib import import_module

COMMANDS = {
    "report": "tables and pictures of results",
    "lowering": "what the compiler makes of every kernel, without a GPU",
    "tune": "measure the tiles for layers on this GPU, and keep the winners",
    "device": "the standing work for a GPU that is there only for minutes",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    name = sys.argv[1] if len(sys.argv) > 1 else None
    for command, what in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=what, description=what)
        if command == name:
            if command == "lowering":
                os.environ.pop("TRITON_INTERPRET", None)  # read when kernels are imported; they are compiled here
            module = import_module(f"bench.{command}")
            module.add_arguments(subparser)
    status: int = module.main(parser.parse_args())
    return status


if __name__ == "__main__":
    sys.exit(main())
