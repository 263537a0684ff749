"""Bars show where somebody looks."""

import sys
import types

import pytest

from kerasdiff import progress


class Output:
    """An error output that may be a terminal's."""

    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("terminal, notebook", [(True, False), (False, True), (False, False)])
def test_a_bar_shows_on_a_terminal_and_in_a_notebook(monkeypatch, terminal, notebook):
    output = Output(terminal)
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert progress.is_watched() == (terminal or notebook)
    with progress.bar(3, "step") as bar:
        bar.update(3)
    assert ("3/3" in output.text) == (terminal or notebook)


@pytest.mark.parametrize("shown", (True, False))
def test_it_shows_or_not_as_told(monkeypatch, shown):
    output = Output(not shown)
    monkeypatch.setattr(sys, "stderr", output)
    with progress.bar(2, "picture", shown) as bar:
        bar.update(2)
    assert ("2/2" in output.text) == shown
