"""A checkpoint's models and the programs that run them, within the memory there is.

Models are made when first used, programs when first run; both stay until they are replaced. With
little memory a model gives up its weights when another one is needed, and reads them anew; on
OpenVINO its programs, which hold weights, go too.
"""

import gc
from contextlib import contextmanager, nullcontext
from functools import wraps
from threading import RLock

from kerasdiff.backend import give_back_freed_memory, give_up, programs_hold_weights


def in_turn(method):
    """With little memory threads take turns: else one would give up what another computes with."""

    @wraps(method)
    def take_turns(self, *args, **kwargs):
        with self._turn:
            return method(self, *args, **kwargs)

    return take_turns


class _Part:
    """A model or tokenizer that is made when first used and can be replaced by assignment.

    Whoever takes or assigns one may change it: it never gives its weights up again.
    """

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, owner, cls=None):
        if owner is None:
            return self
        with owner._turn:
            part = owner._part(self.name)
            owner._kept.add(self.name)
            return part

    def __set__(self, owner, value):
        with owner._turn, owner._making:
            owner._kept.add(self.name)
            owner._forget({self.name, f"float32_{self.name}"})
            owner._put(self.name, value)


class HeldModels:
    """Models and tokenizers by name, as attributes; a subclass says how they are `_compiled`.

    Args:
        models: `checkpoints.models.Models`, which makes them and reads their weights.
        memory: one of `configs.MEMORY`.
    """

    text_encoder, text_encoder_2 = _Part(), _Part()
    tokenizer, tokenizer_2 = _Part(), _Part()
    image_encoder, decoder, diffusion_model = _Part(), _Part(), _Part()

    def __init__(self, models, memory="high"):
        self._models, self.memory = models, memory
        self._parts, self._programs, self._running = {}, {}, None
        self._kept, self._empty = set(), set()  # names of models: the user's; without weights
        self._turn = nullcontext() if memory == "high" else RLock()
        self._making = RLock()  # threads make each model and program once

    def _part(self, name):
        """The model or tokenizer `name`; with little memory, other models' weights go first."""
        with self._making:
            if self.memory != "high" and not name.startswith("tokenizer"):
                self._give_up_others(besides=name)
            if name not in self._parts:
                self._parts[name] = self._models.make(name)
            elif name in self._empty:
                self._refill(name)
            return self._parts[name]

    def _give_up_others(self, besides):
        """Frees the weights of models that are not needed now; their programs read the next ones.

        OpenVINO's cannot: they go too.
        """
        models = {name for name in self._parts if not name.startswith(("tokenizer", "streamed"))}
        names = models - self._kept - self._empty - {besides, self._running}
        self._empty |= names
        for name in names:
            give_up(self._parts[name].variables)
        if names and programs_hold_weights():
            self._forget_programs(names)
        if besides not in self._parts or besides in self._empty:  # it is about to take some
            give_back_freed_memory()

    def _refill(self, name):
        model = self._parts[name]
        try:
            self._models.refill(model, name)
        except BaseException:  # an interrupt too
            give_up(model.variables)
            raise
        self._empty.remove(name)

    @contextmanager
    def _keeping(self, name):
        """Within this context the model `name` keeps its weights: a preview needs another one."""
        before, self._running = self._running, name
        try:
            yield
        finally:
            self._running = before

    def _put(self, name, part):
        self._parts[name] = part
        self._empty.discard(name)

    def _forget(self, names):
        self._parts = {name: part for name, part in self._parts.items() if name not in names}
        self._empty -= names
        self._forget_programs(names)

    def _forget_programs(self, names):
        self._programs = {key: v for key, v in self._programs.items() if key[0] not in names}
        if self.memory != "high":
            gc.collect()  # models and programs hold on to themselves

    def _program(self, name, how=None):
        """What runs the model `name`, compiled once; for a `Pass`, the loop over the network."""
        with self._making:
            model = self._part(name)
            # Those of the model too: quantizing takes some out and puts others in.
            now = (model, *getattr(model, "variables", ()))
            made_for, program = self._programs.get((name, how), ((), None))
            if tuple(map(id, made_for)) != tuple(map(id, now)):
                program = self._compiled(name, model, how)
                self._programs[name, how] = (now, program)
            return program
