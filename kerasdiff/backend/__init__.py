"""What alone knows backends, devices and compilers apart."""

from kerasdiff.backend.compilers import (
    compiles_training,
    compute_float32_in_full,
    for_few_calls,
    prepare_compiler,
    resolve_jit_compile,
)
from kerasdiff.backend.devices import (
    check_trains,
    device,
    fused_attention_dtypes,
    join_processes,
    loops_in_python,
    of_all_processes,
    process_count,
    runs_one_by_one,
)
from kerasdiff.backend.late_casts import cast_late
from kerasdiff.backend.loops import next_index
from kerasdiff.backend.memory import (
    empty,
    give_back_freed_memory,
    give_up,
    hand_over,
    keep_freed_memory,
    new_array,
    unscoped_names,
)
from kerasdiff.backend.product_forms import (
    HALF,
    QUERIES,
    Forms,
    forms,
    in_bfloat16,
    is_native,
    matmul,
    widen,
    widen_factor,
    with_forms,
)
from kerasdiff.backend.programs import Program, programs_hold_weights
from kerasdiff.backend.shared_traces import Described, call_once, call_part, call_shared
from kerasdiff.backend.training import (
    errors_of,
    loss_of_replica,
    of_several_sizes,
    training_forms,
    training_function,
)

__all__ = [
    "HALF",
    "QUERIES",
    "Described",
    "Forms",
    "Program",
    "call_once",
    "call_part",
    "call_shared",
    "cast_late",
    "check_trains",
    "compiles_training",
    "compute_float32_in_full",
    "device",
    "empty",
    "errors_of",
    "for_few_calls",
    "forms",
    "fused_attention_dtypes",
    "give_back_freed_memory",
    "give_up",
    "hand_over",
    "in_bfloat16",
    "is_native",
    "join_processes",
    "keep_freed_memory",
    "loops_in_python",
    "loss_of_replica",
    "matmul",
    "new_array",
    "next_index",
    "of_all_processes",
    "of_several_sizes",
    "prepare_compiler",
    "process_count",
    "programs_hold_weights",
    "resolve_jit_compile",
    "runs_one_by_one",
    "training_forms",
    "training_function",
    "unscoped_names",
    "widen",
    "widen_factor",
    "with_forms",
]
