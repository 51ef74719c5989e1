"""The command line: `josie …` and `python -m josie …`.

Everything heavy is imported inside the commands, after their arguments are checked: `--help` and the answer to a wrong
argument are there at once. What a user can get wrong ends in one line on standard error and exit code 2, and files and
folders appear under their names only when they are complete.
"""

from typing import Annotated

import typer

from .assemble import assemble_command
from .chat import chat_command
from .codec import codec_app
from .duplex import duplex_command
from .encode import encode_command
from .evaluate import evaluate_command
from .generate import generate_command, speak_command
from .info import info_command
from .make import convert_app, export_command, init_command, train_tokenizer_command
from .serve import serve_command
from .shared import CommandLine, OneLineErrors, show_help

app = CommandLine(cls=OneLineErrors, invoke_without_command=True, pretty_exceptions_enable=False)
app.command("generate")(generate_command)
app.command("speak")(speak_command)
app.command("chat")(chat_command)
app.command("serve")(serve_command)
app.command("duplex")(duplex_command)
app.add_typer(codec_app, name="codec")
app.command("info")(info_command)
app.command("init")(init_command)
app.command("assemble")(assemble_command)
app.add_typer(convert_app, name="convert")
app.command("train-tokenizer")(train_tokenizer_command)
app.command("encode")(encode_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from .. import __version__

        typer.echo(f"josie {__version__}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """JOSIE reads text, images, video and audio, and answers in text and speech."""
    del version
    show_help(context)


def main() -> None:
    """Run the command line."""
    app()
