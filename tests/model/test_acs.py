# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a function is isolated: by port type, by flags, by each kind of table row, and along a path."""

from collections.abc import Callable

import pytest

from iommud.address import Address
from iommud.model.acs import AcsBasis, AcsModel, AcsState, AcsVerdict, Override
from iommud.pci import AcsRegisters, ConfigFacts, Gap
from tests.machines import EMPTY, OFF, ON, PLAIN, Machine

NAME = "00:01.0"


def judge(machine: Machine, name: str = NAME, state: AcsState | None = None) -> AcsVerdict:
    acs = machine.acs(state or AcsState())
    return acs.verdict(acs.topology.functions[Address.parse(name)])


def lone(port_type: int | None, acs: AcsRegisters | None = None, *, mf: bool = False, ids: str = PLAIN) -> Machine:
    machine = Machine()
    machine.add(NAME, port_type, acs=acs, mf=mf, ids=ids)
    return machine


@pytest.mark.parametrize("mf", [False, True])
@pytest.mark.parametrize("acs", [None, OFF, ON, EMPTY])
@pytest.mark.parametrize(
    ("port_type", "rule"),
    [
        (None, "never"),
        *((port_type, "never") for port_type in (7, 8, 10)),
        *((port_type, "flags") for port_type in (4, 6)),
        *((port_type, "alone") for port_type in (0, 1, 5, 9)),
        *((port_type, "always") for port_type in (2, 3, 11, 15)),
    ],
)
def test_the_port_type_says_whether_flags_are_asked_for(
    port_type: int | None, rule: str, acs: AcsRegisters | None, mf: bool
) -> None:
    flags = acs in (ON, EMPTY)
    expected = {"never": False, "flags": flags, "alone": flags or not mf, "always": True}
    assert judge(lone(port_type, acs, mf=mf)).isolated is expected[rule]


@pytest.mark.parametrize(
    ("port_type", "acs", "basis"),
    [
        (None, None, AcsBasis.NOT_PCIE),
        (7, ON, AcsBasis.PORT_TYPE),
        (3, None, AcsBasis.PORT_TYPE),
        (0, None, AcsBasis.LONE_FUNCTION),
        (4, ON, AcsBasis.FLAGS),
        (4, None, AcsBasis.NO_CAPABILITY),
    ],
)
def test_a_verdict_says_what_decided_it(port_type: int | None, acs: AcsRegisters | None, basis: AcsBasis) -> None:
    assert judge(lone(port_type, acs)).basis is basis


@pytest.mark.parametrize(
    ("capability", "control", "isolated"),
    [
        (0x1D, 0x1D, True),
        (0x7F, 0x1D, True),
        *((0x1D, 0x1D & ~bit, False) for bit in (0x01, 0x04, 0x08, 0x10)),
        *((0x1D & ~bit, 0x1D & ~bit, True) for bit in (0x01, 0x04, 0x08, 0x10)),
        # Translation Blocking, Egress Control and Direct Translated P2P are not asked for.
        *((0x1D | bit, 0x1D, True) for bit in (0x02, 0x20, 0x40)),
        *((bit, 0, True) for bit in (0x02, 0x20, 0x40)),
        (0x00, 0x00, True),
        (0x1D, 0x62, False),
    ],
)
def test_every_implemented_flag_of_the_four_must_be_set(capability: int, control: int, isolated: bool) -> None:
    assert judge(lone(4, AcsRegisters(capability, control))).isolated is isolated


def test_judged_with_control_cleared_only_what_implements_nothing_is_isolated() -> None:
    cleared = AcsState(control_cleared=True)
    assert judge(lone(4, ON), state=cleared).isolated is False
    assert judge(lone(4, EMPTY), state=cleared).isolated is True
    pch = Machine()
    pch.root_port(NAME, to=1, ids="8086:1c10", mpc=1 << 26)
    assert judge(pch, state=cleared).isolated is False
    assert judge(lone(4, ON, ids="8086:a110"), state=cleared).isolated is False


@pytest.mark.parametrize("ids", [PLAIN, "8086:a110"])
def test_cleared_control_has_none_of_the_flags(ids: str) -> None:
    source_validation_only = AcsRegisters(0x01, 0x01)
    assert judge(lone(4, source_validation_only, ids=ids), state=AcsState(control_cleared=True)).isolated is False


ALL = AcsRegisters(0x1D, 0x1D)
NONE = AcsRegisters(0x1D, 0x00)


@pytest.mark.parametrize(
    ("ids", "port_type", "acs", "isolated"),
    [
        ("10e8:e004", 4, None, True),
        ("10e8:e004", None, None, True),
        ("8086:10c6", 0, None, True),
        ("8086:0001", 9, None, True),
        ("8086:0001", 0, None, False),
        ("8086:0001", None, None, False),
        ("1c36:0031", 4, None, True),
        ("1c36:0031", 0, None, False),
        ("177d:a000", 4, None, True),
        ("177d:b884", 4, None, True),
        ("177d:a800", 4, None, False),
        ("177d:a800", 4, ALL, True),
        ("177d:a000", 6, None, False),
        ("8086:a110", 4, ALL, True),
        ("8086:a110", 4, NONE, False),
        ("8086:a110", 4, EMPTY, True),
        ("8086:a110", 4, None, False),
        ("8086:a120", 4, ALL, True),
        ("1d17:0710", 4, None, True),
        ("1d17:0752", 6, None, True),
        ("1d17:0001", 4, ALL, False),
        ("1d17:0001", 6, ALL, False),
        ("1d17:0001", 0, ALL, True),
        ("1d17:0710", 0, None, False),
        ("1d17:3038", 0, None, True),
        ("8088:0100", 0, None, True),
        ("8088:0100", None, None, True),
        ("8088:0001", 0, ALL, False),
        ("111d:80b5", 4, AcsRegisters(0x1D, 0x1C), False),
    ],
)
def test_each_kind_of_table_row(ids: str, port_type: int | None, acs: AcsRegisters | None, isolated: bool) -> None:
    assert judge(lone(port_type, acs, mf=True, ids=ids)).isolated is isolated


@pytest.mark.parametrize(
    ("acs", "isolated"),
    [(AcsRegisters(0x1D, 0x1C), True), (AcsRegisters(0x09, 0x08), True), (AcsRegisters(0x1D, 0x0C), False)],
)
def test_of_a_switch_with_broken_source_validation_all_other_flags_are_asked(acs: AcsRegisters, isolated: bool) -> None:
    machine = lone(4, acs, ids="111d:80b5")
    machine.kernel = "7.3"
    assert judge(machine).isolated is isolated


@pytest.mark.parametrize(("ids", "basis"), [("8086:a110", AcsBasis.QUIRK), ("8086:0001", AcsBasis.FLAGS)])
def test_only_listed_ports_are_judged_by_the_rule_of_their_chipset(ids: str, basis: AcsBasis) -> None:
    assert judge(lone(4, ON, ids=ids)).basis is basis


def test_a_verdict_of_the_table_names_its_row() -> None:
    found = judge(lone(4, ids="10e8:e004"))
    assert found.basis is AcsBasis.QUIRK
    assert found.row is not None
    assert found.row.source == "pci_quirk_xgene_acs"


@pytest.mark.parametrize(("kernel", "isolated"), [("5.10", False), ("6.1", True), ("6.12", True), ("7.3", True)])
@pytest.mark.parametrize(("ids", "port_type"), [("17cb:0115", 4), ("0014:7a09", 4), ("8088:5010", 0), ("14e4:1760", 0)])
def test_rows_hold_from_the_version_that_brought_them(kernel: str, isolated: bool, ids: str, port_type: int) -> None:
    machine = lone(port_type, mf=True, ids=ids)
    machine.kernel = kernel
    assert judge(machine).isolated is isolated


@pytest.mark.parametrize(
    ("mf", "ivrs", "isolated"),
    [(True, None, None), (None, True, None), (False, None, False), (None, False, False), (True, True, True)],
)
def test_an_amd_south_bridge_is_undecided_where_the_table_or_the_header_is_unread(
    mf: bool | None, ivrs: bool | None, isolated: bool | None
) -> None:
    machine = Machine()
    machine.conventional(NAME, ids="1002:4385")
    machine.change(NAME, config=ConfigFacts(is_pcie=False, multifunction_bit=mf))
    assert judge(machine, state=AcsState(ivrs_present=ivrs)).isolated is isolated


@pytest.mark.parametrize(
    ("port_type", "acs", "mf", "ids", "isolated"),
    [
        (4, ON, False, PLAIN, None),
        (6, None, False, PLAIN, None),
        (0, None, False, PLAIN, True),
        (0, ON, True, PLAIN, None),
        (7, None, False, PLAIN, False),
        (4, ON, False, "8086:a110", None),
        (4, None, False, "10e8:e004", True),
    ],
)
def test_without_the_extended_space_flags_are_unknown(
    port_type: int, acs: AcsRegisters | None, mf: bool, ids: str, isolated: bool | None
) -> None:
    machine = lone(port_type, acs, mf=mf, ids=ids)
    machine.hide_extended(NAME)
    found = judge(machine)
    assert found.isolated is isolated
    assert found.gap is (Gap.TRUNCATED if isolated is None else None)
    assert (found.basis is AcsBasis.UNKNOWN) is (isolated is None)
    assert (found.row is None) is (ids == PLAIN)


@pytest.mark.parametrize(
    ("port_type", "ids", "isolated"),
    [
        (4, PLAIN, None),
        (0, PLAIN, None),
        (None, PLAIN, False),
        (9, "8086:0001", None),
        (None, "8086:0001", False),
        (4, "10e8:e004", True),
        (0, "8088:0001", False),
    ],
)
def test_without_capabilities_the_port_type_is_unknown(port_type: int | None, ids: str, isolated: bool | None) -> None:
    machine = lone(port_type, ids=ids)
    machine.hide_capabilities(NAME)
    found = judge(machine)
    assert found.isolated is isolated
    assert found.gap is (Gap.RESTRICTED if isolated is None else None)
    assert (found.basis is AcsBasis.UNKNOWN) is (isolated is None)


def test_without_an_identity_nothing_is_known() -> None:
    machine = lone(7)
    machine.change(NAME, vendor=None)
    assert judge(machine) == AcsVerdict(None, AcsBasis.UNKNOWN, gap=Gap.NO_CONFIG)


@pytest.mark.parametrize(("acs", "isolated"), [(ON, True), (OFF, None)])
def test_an_unread_header_matters_only_if_the_flags_do_not_suffice(acs: AcsRegisters, isolated: bool | None) -> None:
    machine = lone(0)
    machine.change(NAME, config=ConfigFacts(is_pcie=True, port_type=0, acs=acs, acs_known=True, gap=Gap.ASLEEP))
    found = judge(machine)
    assert found.isolated is isolated
    assert found == (
        AcsVerdict(True, AcsBasis.FLAGS) if isolated else AcsVerdict(None, AcsBasis.UNKNOWN, gap=Gap.ASLEEP)
    )


@pytest.mark.parametrize(
    ("mf", "acs", "ids", "isolated"),
    [
        (False, None, PLAIN, None),
        (False, ON, PLAIN, True),
        (True, None, PLAIN, False),
        (False, ON, "1d17:0001", None),
        (False, None, "1c36:0031", None),
    ],
)
def test_a_downstream_port_below_an_unread_bridge_may_be_an_endpoint_to_the_kernel(
    mf: bool, acs: AcsRegisters | None, ids: str, isolated: bool | None
) -> None:
    machine = Machine()
    machine.root_port(NAME, to=1)
    machine.switch_downstream("01:00.0", to=2, mf=mf, acs=acs, ids=ids)
    machine.hide_capabilities(NAME)
    found = judge(machine, "01:00.0")
    # The Annapurna row asks for root ports, which the function is not in either case: the flags decide.
    assert found.isolated is isolated


def test_what_may_have_been_corrected_is_unknown_for_the_bridge_s_missing_bytes() -> None:
    machine = Machine()
    machine.root_port(NAME, to=1)
    machine.switch_downstream("01:00.0", to=2)
    machine.hide_capabilities(NAME)
    assert judge(machine, "01:00.0") == AcsVerdict(None, AcsBasis.UNKNOWN, gap=Gap.RESTRICTED)


def test_a_corrected_downstream_port_passes_without_a_capability() -> None:
    machine = Machine()
    machine.root_port(NAME, to=1, acs=ON)
    machine.switch_downstream("01:00.0", to=2)
    machine.switch_downstream("01:01.0", to=3, mf=True)
    assert judge(machine, "01:00.0").isolated is True
    assert judge(machine, "01:01.0").isolated is False


def test_an_unlisted_zhaoxin_port_that_was_corrected_is_judged_as_endpoint() -> None:
    machine = Machine()
    machine.root_port(NAME, to=1)
    machine.switch_downstream("01:00.0", to=2, ids="1d17:0001")
    assert judge(machine, "01:00.0").isolated is True


@pytest.mark.parametrize(
    ("port_type", "mf", "state", "isolated"),
    [
        (4, False, AcsState(override=frozenset({Override.DOWNSTREAM})), True),
        (6, False, AcsState(override=frozenset({Override.DOWNSTREAM})), True),
        (4, True, AcsState(override=frozenset({Override.MULTIFUNCTION})), False),
        (0, True, AcsState(override=frozenset({Override.MULTIFUNCTION})), True),
        (9, True, AcsState(override=frozenset({Override.MULTIFUNCTION})), True),
        (0, True, AcsState(override=frozenset({Override.DOWNSTREAM})), False),
        (7, True, AcsState(override=frozenset(Override)), False),
        (None, True, AcsState(override=frozenset(Override)), False),
        (4, False, AcsState(override_ids=frozenset({(0x1234, 0x11E8)})), True),
        (0, True, AcsState(override_ids=frozenset({(0x1234, 0x11E8)})), True),
        (4, False, AcsState(override_ids=frozenset({(0x1234, 0x11E9)})), False),
        (4, False, AcsState(), False),
    ],
)
def test_the_out_of_tree_override_grants_isolation_to_what_lacks_the_capability(
    port_type: int | None, mf: bool, state: AcsState, isolated: bool
) -> None:
    found = judge(lone(port_type, mf=mf), state=state)
    assert found.isolated is isolated
    assert (found.basis is AcsBasis.OVERRIDE) is isolated


def test_the_override_leaves_a_present_capability_to_speak_for_itself() -> None:
    state = AcsState(override=frozenset(Override), override_ids=frozenset({(0x1234, 0x11E8)}))
    assert judge(lone(4, OFF), state=state).isolated is False


def stack(*acs: AcsRegisters | None) -> AcsModel:
    """Root ports, each below the one before."""
    machine = Machine()
    for bus, registers in enumerate(acs):
        machine.root_port(f"{bus:02x}:00.0", to=bus + 1, acs=registers)
    return machine.acs()


def port(acs: AcsModel, bus: int) -> Callable[[], bool]:
    return lambda: acs.path_isolated(acs.topology.functions[Address(0, bus, 0, 0)])


@pytest.mark.parametrize(
    ("registers", "expected"),
    [
        ((ON, ON, ON), [True, True, True]),
        ((ON, OFF, ON), [True, False, False]),
        ((OFF, ON, ON), [False, False, False]),
        ((ON, ON, None), [True, True, False]),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_path_is_isolated_if_every_bridge_up_to_the_root_is(
    registers: tuple[AcsRegisters | None, ...], expected: list[bool], order: tuple[int, ...]
) -> None:
    acs = stack(*registers)
    found = {bus: port(acs, bus)() for bus in order}
    assert [found[bus] for bus in range(3)] == expected


@pytest.mark.parametrize(
    ("registers", "blocker"),
    [((ON, ON, ON), None), ((ON, OFF, ON), 1), ((OFF, OFF, ON), 1), ((OFF, ON, ON), 0), ((ON, ON, OFF), 2)],
)
def test_the_blocker_is_the_nearest_bridge_without_isolation(
    registers: tuple[AcsRegisters | None, ...], blocker: int | None
) -> None:
    acs = stack(*registers)
    found = acs.blocker(acs.topology.functions[Address(0, 2, 0, 0)])
    assert (None if found is None else found.address.bus) == blocker


def test_a_path_that_runs_in_a_circle_is_not_isolated() -> None:
    machine = Machine()
    machine.root_port("01:00.0", to=2, acs=ON, upstream=Address.parse("02:00.0"))
    machine.root_port("02:00.0", to=1, acs=ON)
    acs = machine.acs()
    assert port(acs, 1)() is False
    assert port(acs, 2)() is False


@pytest.mark.parametrize(("unknown", "isolated"), [(True, True), (False, False), (None, False)])
def test_what_is_not_known_counts_as_the_state_says_and_is_noted(unknown: bool | None, isolated: bool) -> None:
    machine = lone(4, ON)
    machine.hide_extended(NAME)
    acs = machine.acs(AcsState(unknown=unknown))
    function = acs.topology.functions[Address.parse(NAME)]
    assert not acs.unknown
    assert acs.isolated(function) is isolated
    assert acs.unknown == {function.address}


@pytest.mark.parametrize(("unknown", "multifunction"), [(True, False), (False, True), (None, True)])
def test_an_unread_header_counts_as_what_goes_with_the_state(unknown: bool | None, multifunction: bool) -> None:
    machine = lone(0)
    machine.hide_config(NAME)
    acs = machine.acs(AcsState(unknown=unknown))
    function = acs.topology.functions[Address.parse(NAME)]
    assert acs.multifunction(function) is multifunction
    assert acs.unknown == {function.address}


def test_what_is_known_is_not_noted_as_unknown() -> None:
    acs = lone(4, ON, mf=True).acs()
    function = acs.topology.functions[Address.parse(NAME)]
    assert acs.isolated(function)
    assert acs.multifunction(function)
    assert not acs.unknown


def test_a_verdict_and_a_path_are_computed_once() -> None:
    machine = lone(4, ON)
    machine.hide_extended(NAME)
    acs = machine.acs()
    function = acs.topology.functions[Address.parse(NAME)]
    assert acs.verdict(function) is acs.verdict(function)
    assert not acs.path_isolated(function)
    # The second answer is the first one again: nothing is asked, so nothing is noted as unknown.
    acs.unknown.clear()
    assert not acs.path_isolated(function)
    assert not acs.unknown
