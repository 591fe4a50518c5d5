# SPDX-License-Identifier: GPL-2.0-or-later
"""Why: every tie and every verdict as a sentence with the values that decided it."""

from typing import Any

import pytest

from iommud.address import Address
from iommud.model.acs import AcsModel, AcsState, Override
from iommud.model.groups import Rule, Tie
from iommud.pci import AcsRegisters, Gap
from iommud.verdict.reasons import GAP_TEXTS, PORT_TYPE_NAMES, REMEDIES, Explainer, acs_text, describe_type
from tests.machines import EMPTY, OFF, ON, Machine
from tests.verdict.seen import thread

UNKNOWN = Gap.RESTRICTED


def lone(port_type: int | None, **facts: Any) -> Machine:
    machine = Machine()
    machine.add("00:03.0", port_type, **facts)
    return machine


def described(machine: Machine, name: str = "00:03.0") -> str:
    model = machine.acs()
    return describe_type(model, model.topology.functions[Address.parse(name)])


def judged(machine: Machine, name: str = "00:03.0", state: AcsState | None = None) -> str:
    model: AcsModel = machine.acs() if state is None else machine.acs(state)
    return acs_text(model, model.topology.functions[Address.parse(name)])


def hidden(machine: Machine) -> Machine:
    machine.hide_config("00:03.0")
    return machine


def restricted(machine: Machine) -> Machine:
    machine.hide_capabilities("00:03.0")
    return machine


@pytest.mark.parametrize("port_type", PORT_TYPE_NAMES)
def test_each_port_type_has_the_name_of_the_specification(port_type: int) -> None:
    assert described(lone(port_type)) == PORT_TYPE_NAMES[port_type]


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        (lone(None), "conventional PCI function"),
        (lone(None, to=1), "conventional PCI bridge"),
        (lone(13), "port of type 13"),
        (hidden(lone(0)), "PCI function"),
        (hidden(lone(4, to=1)), "bridge of unknown type"),
        (restricted(lone(0)), "PCIe function"),
        (restricted(lone(4, to=1)), "bridge of unknown type"),
        (restricted(lone(None, to=1)), "conventional PCI bridge"),
    ],
)
def test_what_is_not_known_of_a_function_is_not_said(machine: Machine, text: str) -> None:
    assert described(machine) == text


def test_a_virtual_function_is_called_one() -> None:
    machine = lone(0)
    machine.vf("00:03.1", of="00:03.0")

    assert described(machine, "00:03.1") == "virtual function"


@pytest.mark.parametrize(
    ("machine", "text"),
    [
        (lone(None), "not isolated: conventional PCI function, which has no ACS"),
        (lone(7, to=1), "not isolated: PCIe-to-PCI bridge, to which ACS does not apply"),
        (lone(10), "not isolated: root complex event collector, to which ACS does not apply"),
        (lone(4, to=1), "not isolated: root port without an ACS capability"),
        (lone(0), "isolated: endpoint, the only function of its device"),
        (lone(4, to=1, acs=ON), "isolated: ACS capability 0x005f, control 0x001d has all of SV|RR|CR|UF"),
        (lone(4, to=1, acs=OFF), "not isolated: ACS capability 0x005f, control 0x0000 lacks SV|RR|CR|UF"),
        (
            lone(4, to=1, acs=AcsRegisters(0x1D, 0x05)),
            "not isolated: ACS capability 0x001d, control 0x0005 lacks CR|UF",
        ),
        (
            lone(4, to=1, acs=EMPTY),
            "isolated: ACS capability 0x0000, control 0x0000: it implements no flag that must be set",
        ),
        (hidden(lone(4, to=1)), "isolation unknown: its config space is not in this snapshot"),
        (restricted(lone(4, to=1)), "isolation unknown: only the first 64 bytes of its config space could be read"),
    ],
)
def test_a_verdict_names_the_registers_that_decided_it(machine: Machine, text: str) -> None:
    assert judged(machine) == text


def test_a_verdict_without_a_named_gap_says_what_is_missing() -> None:
    machine = lone(4, to=1)
    machine.change("00:03.0", has_link=True)
    machine._hide("00:03.0", is_pcie=None, port_type=None, acs_known=False)

    assert judged(machine) == "isolation unknown: its type or registers are not known"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            {"ids": "8086:8c10", "mpc": 1 << 26},
            "isolated: the kernel's device table says so (pci_quirk_intel_pch_acs), MPC register 0x04000000",
        ),
        (
            {"ids": "8086:a110", "acs": AcsRegisters(0x1D, 0x0D, wide=True)},
            (
                "not isolated: the kernel's device table says so (pci_quirk_intel_spt_pch_acs), "
                "ACS capability 0x0000001d, control 0x0000000d"
            ),
        ),
        ({"ids": "17cb:0400"}, "isolated: the kernel's device table says so (pci_quirk_qcom_rp_acs)"),
    ],
)
def test_a_verdict_by_table_names_the_function_that_decides(facts: dict[str, Any], text: str) -> None:
    assert judged(lone(4, to=1, **facts)) == text


def test_a_verdict_that_hinges_on_the_version_says_so() -> None:
    text = judged(lone(4, to=1, ids="17cb:0115"))

    assert text.endswith("(by the device tables of 6.12; stable releases differ here)")
    assert text.startswith("isolated: the kernel's device table says so")


def test_a_port_that_the_override_vouches_for_is_called_so() -> None:
    state = AcsState(override=frozenset({Override.DOWNSTREAM}))

    assert judged(lone(4, to=1), state=state) == ("isolated: pcie_acs_override on the command line vouches for it")


def test_the_state_with_acs_still_off_shows_control_as_zero() -> None:
    text = judged(lone(4, to=1, acs=ON), state=AcsState(control_cleared=True))

    assert text == "not isolated: ACS capability 0x005f, control 0x0000 lacks SV|RR|CR|UF"


def test_every_gap_has_a_sentence_and_a_remedy() -> None:
    assert GAP_TEXTS.keys() == REMEDIES.keys() == set(Gap)


def reasons(machine: Machine, never: tuple[str, ...] = ()) -> dict[Rule, str]:
    model = machine.model(never=[Address.parse(one) for one in never])
    explainer = Explainer(model, model.expected().ties)
    return {tie.rule: explainer.reason(tie).text for tie in explainer.ties}


def test_ties_below_an_alias_bridge_and_an_unprotected_port() -> None:
    assert reasons(thread()) == {
        Rule.UNPROTECTED_PATH: (
            "0000:01:00.0 lies below 0000:00:02.0, which is not isolated: root port without an ACS capability"
        ),
        Rule.ALIAS_BRIDGE: (
            "0000:02:00.0 lies below 0000:01:00.0, a PCIe-to-PCI bridge that passes its requests on as 0000:02:00.0"
        ),
    }


def test_a_path_blocked_further_up_names_the_blocker() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3, acs=ON)
    machine.endpoint("03:00.0")

    found = machine.model()
    (tie,) = (tie for tie in found.expected().ties if str(tie.one) == "0000:03:00.0")

    assert Explainer(found, ()).reason(tie).text == (
        "0000:03:00.0 lies below 0000:02:00.0, and above it 0000:00:02.0 is "
        "not isolated: root port without an ACS capability"
    )


def test_ties_to_a_vmd_endpoint() -> None:
    machine = Machine()
    machine.vmd("00:05.0", domain=0x10000)
    machine.endpoint("10000:00:01.0")

    assert reasons(machine)[Rule.REAL_DMA_DEVICE] == (
        "requests of 10000:00:01.0 carry the requester ID of 0000:00:05.0"
    )


def test_ties_by_dma_alias_whether_known_or_hidden_in_memory() -> None:
    known = Machine()
    known.endpoint("00:03.0", ids="1b4b:9123")
    known.endpoint("00:03.1", ids="1b4b:9123")
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.endpoint("01:00.0", ids="11f8:8531")
    machine.endpoint("01:01.0")
    found = machine.model()
    hidden_tie = Tie(Address.parse("01:00.0"), Address.parse("01:01.0"), Rule.DMA_ALIAS)

    assert reasons(known)[Rule.DMA_ALIAS] == "0000:00:03.0 also sends as 0000:00:03.1"
    assert Explainer(found, ()).reason(hidden_tie).text == (
        "0000:01:00.0 may also send as 0000:01:01.0: its aliases stand in its own memory"
    )


def test_ties_of_one_device_show_both_functions() -> None:
    machine = Machine()
    machine.endpoint("00:03.0", mf=True)
    machine.endpoint("00:03.1", acs=OFF)

    assert reasons(machine) == {
        Rule.MULTIFUNCTION: (
            "0000:00:03.0 and 0000:00:03.1 are functions of one device; "
            "the first is not isolated: endpoint without an ACS capability; "
            "the second is not isolated: ACS capability 0x005f, control 0x0000 lacks SV|RR|CR|UF"
        )
    }


def test_ties_beside_an_ungrouped_bridge() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, mf=True)
    machine.root_port("00:02.1", to=2)
    machine.endpoint("01:00.0")

    assert reasons(machine, never=("00:02.0",))[Rule.UNGROUPED_BRIDGE] == (
        "no bridge above 0000:01:00.0 has a group, and the search from the last of them finds 0000:00:02.1"
    )


def explainer(*pairs: str) -> Explainer:
    machine = Machine()
    addresses = [[Address.parse(f"00:0{digit}.0") for digit in pair] for pair in pairs]
    ties = tuple(Tie(one, other, Rule.DMA_ALIAS) for one, other in addresses)
    machine.endpoint("00:01.0")
    return Explainer(machine.model(), ties)


@pytest.mark.parametrize(
    ("start", "goals", "chain"),
    [
        ("1", "4", ["12", "24"]),
        ("4", "1", ["24", "12"]),
        ("1", "34", ["12", "23"]),
        ("1", "1", []),
        ("1", "6", None),
        ("7", "1", None),
    ],
)
def test_the_shortest_chain_of_ties_joins_two_functions(start: str, goals: str, chain: list[str] | None) -> None:
    found = explainer("12", "23", "34", "24", "56").chain(
        Address.parse(f"00:0{start}.0"), [Address.parse(f"00:0{digit}.0") for digit in goals]
    )

    assert chain == (None if found is None else [f"{tie.one.device}{tie.other.device}" for tie in found])
