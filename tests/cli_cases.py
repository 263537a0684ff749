"""A small checkpoint, and the command line on it: fixtures of several files."""

from dataclasses import replace

from drawn_checkpoint import CONFIG, write_checkpoint

from kerasdiff.cli import main


def small_folder(tmp_path_factory):
    """A folder called "demo" whose pictures are 64x64."""
    path = tmp_path_factory.mktemp("checkpoint") / "demo"
    write_checkpoint(path, replace(CONFIG, image_size=(64, 64)))
    return path


def runner(folder, tmp_path, capsys):
    """A function of arguments that gives the exit code and what was said."""

    def call(*arguments, model=folder):
        try:
            code = main([*arguments, "--model", str(model), "-o", str(tmp_path / "out.png")])
        except SystemExit as stop:  # as argparse ends
            code = stop.code
        return code, capsys.readouterr()

    return call
