"""Which faults a handler answers, by how their threads slept."""

from __future__ import annotations

import numpy as np

from memtap.tracers.code.mappings import TRAITS
from memtap.tracers.faults.match import FAULT, Found
from memtap.tracers.faults.userfault import leave_files_out


def test_who_sleeps_in_a_fault_on_a_file_waits_for_its_file_system() -> None:
    faults = np.zeros(3, FAULT)
    faults["place"] = [1, 2, 2]
    faults["found"] = [Found.USERFAULT | Found.RAISED, Found.USERFAULT | Found.RAISED, Found.TIMED]
    traits = np.array([(0, False, False), (4, False, False), (5, True, False)], TRAITS)
    leave_files_out(faults, traits)
    assert faults["found"].tolist() == [
        Found.USERFAULT | Found.RAISED,
        Found.RAISED,
        Found.TIMED,
    ]
