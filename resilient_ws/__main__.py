"""The command line: `python -m resilient_ws COMMAND`; each command is a function of its arguments."""

import sys
from collections.abc import Callable, Sequence
from typing import Final


def chaos(argv: Sequence[str]) -> int:
    """Put a bad network in front of a server."""
    from resilient_ws.testing import cli

    return cli.main(argv)


COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {"chaos": chaos}
"""What each command does; the first line of its docstring is what the help shows."""


def main(argv: Sequence[str]) -> int:
    """Run the command that the first argument names; return the exit code, 2 if there is no such command."""
    name = argv[0] if argv else ""
    if name in COMMANDS:
        return COMMANDS[name](argv[1:])
    lines = [f"  {command:8} {function.__doc__}" for command, function in COMMANDS.items()]
    text = "\n".join(["usage: python -m resilient_ws COMMAND [--help] ...", "", *lines, ""])
    if name in {"-h", "--help"}:
        print(text)
        return 0
    print(f"{f'there is no command {name!r}' if name else 'no command given'}\n{text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
