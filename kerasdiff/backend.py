"""What alone knows backends apart: pure functions, compiled over a model's weights.

Weights are arguments of a compiled program, never constants in it: assign a variable and the next
call sees the new value, without a new trace. On OpenVINO alone, which cannot, with one.
"""

import ctypes
import functools
import os
import platform

import keras

from kerasdiff.kept_programs import forget_programs, programs_folder
from kerasdiff.processor import Forms, computes_by_onednn, computes_in_bfloat16, with_forms


class Program:
    """A function over tensors and a model's weights, compiled once for each set of shapes.

    Args:
        function: takes and returns nested structures of tensors and calls `model`; it must be pure.
        model: the `keras.Model` (or list of models) whose variables `function` reads.
        jit_compile: `True` compiles with XLA, `False` does not (TensorFlow: a graph; JAX: op by
            op), `"auto"` follows a measured table for the device and the model's compute dtype;
            OpenVINO has one way to compile.
        travels: whether other machines run it too: it is not fitted to this processor then.

    Attributes:
        traces: how many times `function` has been traced; a steady count means that nothing is
            compiled again.
    """

    def __init__(self, function, model, jit_compile="auto", travels=False):
        models = model if isinstance(model, list) else [model]
        self.traces = 0
        self._function, self._travels = function, travels
        self._variables = [variable for each in models for variable in each.variables]
        self.dtype = models[0].compute_dtype
        self.jit_compile = resolve_jit_compile(jit_compile, self.dtype)
        compile_program = _COMPILERS.get(keras.backend.backend(), lambda program: program.trace)
        self._compiled = compile_program(self)

    def __call__(self, *inputs):
        """Runs on nested structures of arrays or tensors; Python numbers become tensors."""
        return self._compiled(*keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))

    def trace(self, *inputs):
        self.traces += 1
        with with_forms(_forms() if self.jit_compile and not self._travels else Forms()):
            return self._function(*inputs)


def _forms():
    """What XLA computes faster on processors; JAX's has another way with matrices."""
    name, on_processor = keras.backend.backend(), device() == "cpu"
    filtered = on_processor and name in ("tensorflow", "jax")
    widened = filtered and hasattr(keras.ops, "view")  # from Keras 3.12 on
    return Forms(filtered, paired=filtered and name == "tensorflow", widened=widened)


def resolve_jit_compile(jit_compile, dtype):
    """`True`, `False`, or for `"auto"` what benchmarks/RESULTS.md says of this device and dtype.

    XLA wins but for one case, bfloat16 on processors with instructions for it: TensorFlow's own
    kernels (oneDNN) use them, XLA's do not and are 2.5 times slower. Without such instructions
    TensorFlow's kernels are the slower ones, by 3 times.
    """
    if jit_compile == "auto":
        return not (dtype == "bfloat16" and device() == "cpu" and computes_in_bfloat16())
    if jit_compile not in (True, False):
        raise ValueError(f'`jit_compile` must be True, False or "auto", not {jit_compile!r}')
    return bool(jit_compile)


def for_few_calls(jit_compile):
    """What to compile with where a program runs once a picture: what is ready soonest.

    On TensorFlow a graph. JAX without XLA goes operation by operation: CLIP's text
    encoder took 1.5 times as long even at its first call.
    """
    return jit_compile if keras.backend.backend() == "jax" else False


def device():
    """Kind of the device that programs run on: `"cpu"`, `"gpu"` or `"tpu"`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return next(
            (kind.lower() for kind in ("TPU", "GPU") if tf.config.list_physical_devices(kind)),
            "cpu",
        )
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend()
    return "cpu"


@functools.cache
def fused_attention_dtypes():
    """For which dtypes Keras has cuDNN's attention (JAX, NVIDIA from Ampere on) or OpenVINO's."""
    if keras.backend.backend() == "openvino":
        return ("float32", "bfloat16")
    if keras.backend.backend() != "jax" or device() != "gpu":
        return ()
    import jax

    gpu = jax.devices()[0]
    fits = "cuda" in gpu.client.platform_version and float(gpu.compute_capability) >= 8.0
    return ("float16", "bfloat16") if fits else ()


def loops_in_python():
    """Whether a loop would go through Python here: TensorFlow's, outside of any program."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.executing_eagerly()


def runs_one_by_one():
    """Whether layers run well without a program: OpenVINO's gave another picture, in minutes."""
    return keras.backend.backend() != "openvino"


def check_trains():
    """ValueError on a backend that makes pictures only."""
    if keras.backend.backend() == "openvino":
        raise ValueError("OpenVINO does not train: set KERAS_BACKEND to tensorflow or jax")


def compiles_training():
    """Whether XLA compiles training steps, where nobody says.

    Not TensorFlow's on processors where it computes by oneDNN: a step is about as fast then, and
    ready sooner. Without, the demo model's takes 1.8 times as long (`benchmarks.training`).
    """
    on_processor = keras.backend.backend() == "tensorflow" and device() == "cpu"
    return not (on_processor and computes_by_onednn())


def training_function(trainer):
    """A compiled training step for Keras' `fit`, traced once for each size of batch.

    Args:
        trainer: a compiled `keras.Model`.

    Returns:
        A function of an iterator over batches that takes a step; None where Keras' own will do
        (on JAX, whose steps always know their sizes) or must (on several devices).
    """
    if keras.backend.backend() != "tensorflow":
        return None
    if trainer.run_eagerly or trainer.distribute_strategy.num_replicas_in_sync > 1:
        return None

    def prepare():
        if not trainer.jit_compile:
            _compile_update(trainer.optimizer, trainer.trainable_variables)

    step = _tensorflow_function(trainer.train_step, trainer.jit_compile, prepare)
    # Taken from the iterator outside of the graph, a batch knows its size.
    return lambda iterator: step(next(iterator))


def _compile_update(optimizer, variables):
    """Has XLA join an update's many small operations: the demo model's steps take 5 % less."""
    import tensorflow as tf

    optimizer.build(variables)
    apply = type(optimizer).apply.__get__(optimizer)
    update = tf.function(
        lambda gradients: apply(gradients, variables), jit_compile=True, autograph=False
    )
    optimizer.apply = lambda gradients, trainable_variables=None: update(list(gradients))


def keep_freed_memory():
    """Has the C library keep what a step frees for the next step.

    A step asks for gigabytes in large pieces and frees them. By default each comes from the system
    anew, in pages that are cleared and faulted in one by one: much of a training step. The price:
    the process stays as large as it once was. Linux with glibc only, for the whole process;
    elsewhere nothing is done.

    Returns:
        Whether it was done.
    """
    if device() != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    # malloc.h: M_MMAP_MAX: no piece of its own mapping; M_TRIM_THRESHOLD: none given back;
    # M_ARENA_MAX: threads find what others have freed.
    return all([set_option(-4, 0), set_option(-1, 2**31 - 1), set_option(-8, 1)])


@functools.cache
def keep_programs():
    """Has the compiler keep its programs for the next run of the process; once, for all of it.

    On TensorFlow it must come before the first tensor or question about devices: options are read
    then. Folders that were chosen already, in the environment or by the user's own lines, stay.

    Returns:
        The folder, see `kept_programs`, or None.
    """
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        option, flags = "--tf_xla_persistent_cache_directory", os.environ.get("TF_XLA_FLAGS", "")
        folder = None if option in flags else programs_folder(f"{name}-{tf.__version__}")
        # Flags are split at blanks.
        if folder and len(str(folder).split()) == 1:
            os.environ["TF_XLA_FLAGS"] = f"{flags} {option}={folder}".strip()
            return folder
    if name == "jax":
        import jax

        folder = programs_folder(f"{name}-{jax.__version__}")
        if folder and not jax.config.jax_compilation_cache_dir:
            jax.config.update("jax_compilation_cache_dir", str(folder))
            return folder
    return None


def join_processes(coordinator, processes, index):
    """Lets JAX see the devices of all processes; see `training.devices`."""
    import jax

    # Between processors the collectives are Gloo's; accelerators bring their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(coordinator, processes, index)


def _compile_with_tensorflow(program):
    # Captured tf.Variables are resource handles: read anew at each call, never folded in.
    return _tensorflow_function(program.trace, program.jit_compile)


def _tensorflow_function(function, jit_compile, prepare=lambda: None):
    import tensorflow as tf

    def compile_anew():
        prepare()
        compiled = tf.function(function, jit_compile=jit_compile, autograph=False)
        # One trace for each size is meant.
        compiled._omit_frequent_tracing_warning = True
        return compiled

    def run(*inputs):
        nonlocal compiled
        try:
            return compiled(*inputs)
        except (tf.errors.OutOfRangeError, tf.errors.InvalidArgumentError) as error:
            # A kept program was cut off or, by the second, is empty: a fall of the system, say.
            is_cut = isinstance(error, tf.errors.OutOfRangeError)
            if not is_cut and "Serialized cache key does not match" not in str(error):
                raise
            if not (kept := keep_programs()):
                message = "empty the folder of XLA's programs that TF_XLA_FLAGS names"
                raise RuntimeError(f"a kept program cannot be read: {message}") from error
            forget_programs(kept)
            compiled = compile_anew()
            return compiled(*inputs)

    compiled = compile_anew()
    return run


def _compile_with_jax(program):
    import jax

    variables = program._variables

    def pure(weights, *inputs):
        values = list(zip(variables, weights, strict=True))
        with keras.StatelessScope(values, initialize_variables=False):
            return program.trace(*inputs)

    compiled = jax.jit(pure) if program.jit_compile else pure
    # `value`, which looks for scopes first, takes SD 1.5's 686 more than a millisecond a call.
    return lambda *inputs: compiled([variable._value for variable in variables], *inputs)


def _compile_with_openvino(program):
    from kerasdiff.openvino_program import compile_program

    return compile_program(program)


_COMPILERS = {
    "tensorflow": _compile_with_tensorflow,
    "jax": _compile_with_jax,
    "openvino": _compile_with_openvino,
}
