"""`python -m tests.cluster.kubernetes packages`, `build`, `up` and `down`."""

from __future__ import annotations

import sys

from tests.cluster.kubernetes import ClusterError
from tests.cluster.kubernetes.node import Node


def main() -> int:
    node = Node(lambda line: print(line, file=sys.stderr, flush=True))
    try:
        match sys.argv[1:]:
            case ["packages"]:
                node.install()
            case ["build"]:
                node.build()
            case ["up"]:
                print(node.up())
            case ["down"]:
                node.down()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
