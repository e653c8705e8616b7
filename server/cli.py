"""The command `fastvideo-port`.

Exit codes: 0 done or pass, 1 error, 2 usage, 3 the verdict is not pass, or there is none yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..port.errors import PortError

_EPILOG = "Exit codes: 0 done or pass, 1 error, 2 wrong usage, 3 the verdict is not pass, or there is none yet."
_OWN = ("serve", "doctor", "install", "demo", "skill", "approve", "page")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(given)
    except PortError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Runs that were started go on; see run-status and cancel-run.\n")
        return 130
    except BrokenPipeError:
        # The reader of our output has seen enough. stdout must not be flushed again at exit.
        sys.stdout = None
        return 1


def _dispatch(given: list[str]) -> int:
    command = given[0] if given else ""
    if command == "serve":
        return _serve(given)
    if command == "demo":
        from .demo.play import main as play

        return int(play(given[1:]) or 0)
    parser = _parser()
    if command not in _OWN:
        # Reading all tools takes a moment, which `serve` and `doctor` need not wait for.
        from .cli_tools import add_tool_commands, run_tool_command

        add_tool_commands(parser)
        if not given:
            # Whoever types the bare name wants to see what there is.
            parser.print_help(sys.stderr)
            raise SystemExit(2)
        options = parser.parse_args(given)
        return run_tool_command(options)
    options = parser.parse_args(given)
    if command == "doctor":
        from .doctor import doctor

        return doctor(as_json=options.json)
    if command == "install":
        from .install import install

        return install(options.client, write=options.write)
    if command == "approve":
        from .approve import approve

        return approve(options.approval_id, listed=options.list, decline=options.decline, note=options.note)
    if command == "page":
        from .approval_page import serve_page

        return serve_page(options.port)
    from ..port.skill import skill_document, write_skill

    if options.write is None:
        sys.stdout.write(skill_document())
    else:
        sys.stdout.write(f"{write_skill(options.write)}\n")
    return 0


def _serve(given: list[str]) -> int:
    options = _parser().parse_args(given)
    from .serve import HttpOptions, serve_http, serve_stdio

    if not options.http:
        used = [name for name in ("host", "port", "token_file", "allow_host", "allow_origin") if getattr(options, name)]
        if used:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in used)
            raise PortError("These options need --http.", seen=flags, fix="Add --http, or leave them out.")
        serve_stdio()
        return 0
    default = HttpOptions()
    serve_http(
        HttpOptions(
            host=options.host or default.host,
            port=default.port if options.port is None else options.port,
            token_file=options.token_file,
            allow_hosts=options.allow_host,
            allow_origins=options.allow_origin,
        )
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastvideo-port",
        description="Port video models into FastVideo and know whether the numbers are right.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastvideo-port {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the MCP server (stdio unless --http)", allow_abbrev=False)
    serve.add_argument("--http", action="store_true", help="streamable HTTP at http://HOST:PORT/mcp")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1); others need a token")
    serve.add_argument("--port", type=int, help="port to listen on (default 8765; 0 takes a free one)")
    serve.add_argument("--token-file", type=Path, help="file with the bearer token (else FASTVIDEO_PORT_TOKEN)")
    serve.add_argument("--allow-host", action="append", default=[], metavar="HOST:PORT", help="further Host header")
    serve.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="further Origin header")

    doctor = commands.add_parser("doctor", help="say what is wrong with this machine, and the fix", allow_abbrev=False)
    doctor.add_argument("--json", action="store_true", help="print JSON")

    install = commands.add_parser("install", help="add the server to a client", allow_abbrev=False)
    install.add_argument("client", choices=("claude", "codex", "vscode", "cursor"))
    install.add_argument("--write", action="store_true", help="write the client's configuration file (with a backup)")

    commands.add_parser("demo", help="play one port from start to verdict, on the CPU", add_help=False)

    decide = commands.add_parser("approve", help="look at what waits for your approval, and decide", allow_abbrev=False)
    decide.add_argument("approval_id", nargs="?", metavar="ID", help="the request; without it, those that wait")
    decide.add_argument("--list", action="store_true", help="every request with its state")
    decide.add_argument("--decline", action="store_true", help="decline instead")
    decide.add_argument("--note", default="", metavar="TEXT", help="a word to the agent")

    page = commands.add_parser("page", help="the same as a page in your browser, on this machine", allow_abbrev=False)
    page.add_argument("--port", type=int, default=0, help="loopback port (default: a free one)")

    skill = commands.add_parser("skill", help="print the skill, or write it as SKILL.md", allow_abbrev=False)
    skill.add_argument("--write", type=Path, metavar="FOLDER", help="a client's skills folder")
    return parser
