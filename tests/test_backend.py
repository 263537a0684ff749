"""Compiled programs: traced once, weights by reference, XLA where it was measured to win."""

import gc
import logging
import os
import platform
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from kerasdiff import backend
from kerasdiff.backend import compilers, kept_programs, memory, processor


def small_model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.layers[0].kernel.assign(np.arange(6.0).reshape(3, 2))
    return model


@pytest.mark.parametrize("jit_compile", (True, False))
def test_a_program_is_traced_once_a_shape_and_follows_its_weights(jit_compile):
    model = small_model()
    program = backend.Program(lambda inputs: {"y": model(inputs["x"]) * 2}, model, jit_compile)
    ones = {"x": np.ones((1, 3), "float32")}
    np.testing.assert_allclose(program(ones)["y"], [[12, 18]])
    model.layers[0].kernel.assign(np.ones((3, 2)))
    np.testing.assert_allclose(program(ones)["y"], [[6, 6]])
    assert program.traces == 1
    program({"x": np.ones((4, 3), "float32")})
    assert program.traces == 2


@pytest.mark.parametrize("jit_compile", (True, False))
def test_a_program_let_go_of_leaves_no_trace_and_no_weights_behind(jit_compile):
    """SiLU has a gradient of its own, which TensorFlow registers for good with what it is in."""
    tensorflow = pytest.importorskip("tensorflow")

    def alive():
        for _ in range(3):
            gc.collect()
        kinds = (tensorflow.Graph, tensorflow.Variable)
        # By type: NumPy's `BagObj`, which reads archives, has no `__class__`.
        return sum(issubclass(type(each), kinds) for each in gc.get_objects())

    def run():
        model = small_model()
        program = backend.Program(lambda x: keras.ops.silu(model(x)), model, jit_compile)
        program(np.ones((1, 3), "float32"))
        return alive()

    during, after = run(), alive()  # the first time other things, too, are made for good
    assert run() == during > after == alive()


def test_many_sizes_are_no_reason_for_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tensorflow"), "propagate", True)  # to where we look
    program = backend.Program(lambda x: x + 1, small_model(), False)
    for size in range(1, 12):
        program(np.ones(size, "float32"))
    assert program.traces == 11 and "retracing" not in caplog.text


def test_numbers_are_arguments_too():
    program = backend.Program(lambda x, n: x + n, small_model(), True)
    results = [float(program(np.float32(1), np.float32(n))) for n in range(5)]
    assert results == [1, 2, 3, 4, 5] and program.traces == 1


def test_auto_follows_the_measurements(monkeypatch):
    monkeypatch.setattr(compilers, "device", lambda: "cpu")
    monkeypatch.setattr(compilers, "computes_in_bfloat16", lambda: True)
    assert backend.resolve_jit_compile("auto", "float32")
    assert not backend.resolve_jit_compile("auto", "bfloat16")
    monkeypatch.setattr(compilers, "computes_in_bfloat16", lambda: False)
    assert backend.resolve_jit_compile("auto", "bfloat16")
    monkeypatch.setattr(compilers, "device", lambda: "gpu")
    assert backend.resolve_jit_compile("auto", "bfloat16")


SLOW = {"avx512_bf16", "avx512_fp16", "GenuineIntel"}  # AMX hidden by a virtual machine


@pytest.mark.parametrize(
    ("flags", "is_faster"),
    [
        (set(), False),
        ({"avx512_bf16"}, True),
        (SLOW, False),
        (SLOW | {"amx_bf16"}, True),
        (SLOW - {"avx512_fp16"}, True),
        (SLOW - {"GenuineIntel"}, True),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_bfloat16_counts_where_its_instructions_are_faster(monkeypatch, flags, is_faster):
    monkeypatch.setattr(processor, "_has_one_of", lambda *names: not flags.isdisjoint(names))
    assert processor.computes_in_bfloat16() is is_faster


WIDE = "--xla_cpu_prefer_vector_width"
AHEAD = "--xla_disable_hlo_passes"
FOLDING = "--tf_xla_disable_constant_folding"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="options are TensorFlow's")
@pytest.mark.parametrize("given", ("", f"{WIDE}=128", f"{AHEAD}=dce --xla_cpu_max_isa=AVX2"))
@pytest.mark.parametrize("is_wide", (True, False))
def test_the_compiler_is_set_up_but_for_what_the_user_chose(monkeypatch, given, is_wide):
    monkeypatch.setattr(compilers, "computes_by_wide_vectors", lambda: is_wide)
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setenv("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "0")
    for _ in range(2):
        backend.prepare_compiler("low")
    found = dict(option.split("=") for option in os.environ["XLA_FLAGS"].split())
    assert len(found) == len(os.environ["XLA_FLAGS"].split())
    ours = {AHEAD: "while-loop-invariant-code-motion"} | ({WIDE: "512"} if is_wide else {})
    assert found == ours | dict(option.split("=") for option in given.split())
    assert os.environ["TF_ONEDNN_USE_SYSTEM_ALLOCATOR"] == "0"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="options are TensorFlow's")
@pytest.mark.parametrize("folds", (None, "true", "false"))
def test_constants_are_left_to_xla_unless_the_user_says_otherwise(monkeypatch, tmp_path, folds):
    mine = "--tf_xla_auto_jit=0" if folds is None else f"{FOLDING}={folds}"
    monkeypatch.setenv("TF_XLA_FLAGS", mine)
    monkeypatch.setenv("KERASDIFF_HOME", str(tmp_path))
    monkeypatch.setenv("KERASDIFF_KEEP_PROGRAMS", "1")
    monkeypatch.setattr(compilers, "keep_programs", kept_programs.keep_programs.__wrapped__)
    folder, _ = backend.prepare_compiler(), backend.prepare_compiler()
    found = os.environ["TF_XLA_FLAGS"].split()
    kept = f"--tf_xla_persistent_cache_directory={folder}"
    assert sorted(found) == sorted({mine, f"{FOLDING}={folds or 'true'}", kept})


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="options are TensorFlow's")
@pytest.mark.parametrize("variable", ("XLA_FLAGS", "TF_XLA_FLAGS"))
def test_with_options_in_a_file_it_stays_and_nothing_is_kept(monkeypatch, tmp_path, variable):
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setenv(variable, "options.txt")
    monkeypatch.setenv("KERASDIFF_HOME", str(tmp_path))
    monkeypatch.setenv("KERASDIFF_KEEP_PROGRAMS", "1")
    monkeypatch.setattr(compilers, "keep_programs", kept_programs.keep_programs.__wrapped__)
    assert backend.prepare_compiler() is None
    assert os.environ[variable] == "options.txt"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="options are TensorFlow's")
@pytest.mark.parametrize("in_bfloat16", (True, False))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("jit_compile", ("auto", True, False))
@pytest.mark.parametrize("memory", ("high", "medium", "low"))
def test_tensorflow_s_pool_is_given_up_where_memory_is_short_and_graphs_do_not_compute(
    monkeypatch, in_bfloat16, dtype, jit_compile, memory
):
    name = "TF_ONEDNN_USE_SYSTEM_ALLOCATOR"
    monkeypatch.setattr(compilers, "computes_in_bfloat16", lambda: in_bfloat16)
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)  # and again afterwards
    backend.prepare_compiler(memory, dtype, jit_compile)
    by_graphs = {True: False, False: True, "auto": dtype == "bfloat16" and in_bfloat16}[jit_compile]
    keeps = {"high": True, "medium": by_graphs, "low": False}[memory]
    assert os.environ.get(name) == (None if keeps else "1")


@pytest.mark.parametrize("where, is_full", (("gpu", True), ("cpu", False)))
def test_accelerators_compute_float32_in_full(monkeypatch, where, is_full):
    monkeypatch.setattr(compilers, "device", lambda: where)
    compute = backend.compute_float32_in_full.__wrapped__
    if keras.backend.backend() == "jax":
        import jax

        monkeypatch.setattr(jax.config, "update", lambda *option: chosen.append(option))
        for precision in (None, "tensorfloat32"):
            chosen = []
            with jax.default_matmul_precision(precision):
                compute()
            option = ("jax_default_matmul_precision", "highest")
            assert chosen == [option] * (is_full and precision is None)
        return
    import tensorflow as tf

    try:
        compute()
        assert tf.config.experimental.tensor_float_32_execution_enabled() is not is_full
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)


@pytest.mark.parametrize("onednn", (True, False))
def test_training_steps_are_compiled_where_xla_is_faster(monkeypatch, onednn):
    monkeypatch.setattr(compilers, "device", lambda: "cpu")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(processor, "_has_one_of", lambda *names: onednn and "avx512_vnni" in names)
    assert backend.compiles_training() is not onednn
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0" if onednn else "1")
    assert backend.compiles_training() is onednn
    monkeypatch.setattr(compilers, "device", lambda: "gpu")
    assert backend.compiles_training()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the rule is for these"
)
def test_the_rule_for_onednn_is_tensorflows_own(monkeypatch):
    port = pytest.importorskip("tensorflow.python.util._pywrap_util_port")
    monkeypatch.setattr(compilers, "device", lambda: "cpu")
    assert backend.compiles_training() is not port.IsMklEnabled()


@pytest.mark.parametrize("choice", ("yes", None, 2))
def test_other_choices_are_refused(choice):
    with pytest.raises(ValueError, match='must be True, False or "auto"'):
        backend.resolve_jit_compile(choice, "float32")


def told(code, how):
    """The number that a process of its own prints."""
    command = [sys.executable, "-c", code, how]
    return float(subprocess.run(command, check=True, text=True, capture_output=True).stdout)


FAULTS = """
import resource, sys
import numpy as np
from kerasdiff.backend import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large = [np.ones(12_000_000, "float32") for _ in range(3)]  # 48 MB each
    del large
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_step():
    """Pages are faulted in once, not at each step, in a process of its own."""
    faults = {how: told(FAULTS, how) for how in ("keep", "give back")}
    assert faults["keep"] < 0.1 * faults["give back"]


PIECES = """
import sys, time
from contextlib import nullcontext
from kerasdiff.backend.memory import giving_back_freed_memory

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

with giving_back_freed_memory() if sys.argv[1] == "give back" else nullcontext():
    pieces = [bytes(4000) for _ in range(50_000)]  # 200 MB, of which the last holds up the rest
    full, pieces = resident(), pieces[-1:]
    until = time.monotonic() + 20
    while resident() > full - 150 and time.monotonic() < until and sys.argv[1] == "give back":
        time.sleep(0.1)
print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_a_compiler_frees_goes_back_to_the_system():
    freed = {how: told(PIECES, how) for how in ("give back", "keep")}
    assert freed["give back"] > 150 > 50 > freed["keep"]


def test_elsewhere_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert backend.keep_freed_memory() is False
    with memory.giving_back_freed_memory():
        assert not any("watch" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("arrays", (([np.nan, 1],), ([np.inf], [np.inf]), ([[]], [3])), ids=str)
def test_the_next_index_is_one_more_whatever_the_arrays_hold(arrays):
    arrays = [np.array(array, "float32") for array in arrays]
    assert int(backend.next_index(np.int32(6), arrays)) == 7
