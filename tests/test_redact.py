# SPDX-License-Identifier: GPL-2.0-or-later
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.kernel import identify
from iommud.redact import redact_cmdline, redact_log_line, redact_modules, redact_uevent, redact_version

UUID = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"
MAC = "52:54:00:ab:cd:ef"

KEPT = [
    "iommu=pt",
    "iommu=off",
    "iommu.passthrough=1",
    "iommu.strict=0",
    "intel_iommu=on,sm_on,igfx_off",
    "amd_iommu=off",
    "amd_iommu_dump",
    "arm-smmu.disable_bypass=0",
    "arm_smmu_v3.disable_msipolling=1",
    "pci=config_acs=xxx0000@pci:1b36:000c",
    "pci=noaer,disable_acs_redir=0000:00:1c.0",
    "pcie_ports=compat",
    "pcie_acs_override=downstream,id:8086:1901",
    "pci-stub.ids=10de:1b80",
    "vfio-pci.ids=10de:1b80,10de:10f0",
    "vfio_iommu_type1.allow_unsafe_interrupts=1",
    "vfio-pci.disable_idle_d3=1",
    "console=ttyS0,115200n8",
    "quiet",
    "nokaslr",
    "psi=1",
    "zswap.enabled=y",
    "module_blacklist=nouveau,nvidia",
    "video=efifb:off",
]
BLANKED = [
    ("root=/dev/mapper/vg-home", "root=[blanked]"),
    (f"root=UUID={UUID}", "root=[blanked]"),
    ("root=8", "root=[blanked]"),
    ("rootflags=subvol=@alice", "rootflags=[blanked]"),
    (f"resume=UUID={UUID}", "resume=[blanked]"),
    ("cryptdevice=/dev/sda2:secret", "cryptdevice=[blanked]"),
    (f"rd.luks.uuid=luks-{UUID}", "rd.luks.uuid=[blanked]"),
    (f"rd.luks.name={UUID}=home", "rd.luks.name=[blanked]"),
    (f"luks.uuid={UUID}", "luks.uuid=[blanked]"),
    ("rd.lvm.lv=vg_alice/root", "rd.lvm.lv=[blanked]"),
    ("ip=10.0.0.5::10.0.0.1:255.255.255.0:alices-host:eth0:off", "ip=[blanked]"),
    ("nfsroot=10.0.0.1:/export/alice", "nfsroot=[blanked]"),
    ("netroot=iscsi:alice", "netroot=[blanked]"),
    ("BOOTIF=01-52-54-00-ab-cd-ef", "BOOTIF=[blanked]"),
    ("hostname=alices-host", "hostname=[blanked]"),
    ("systemd.hostname=alices-host", "systemd.hostname=[blanked]"),
    ("systemd.machine_id=0123456789abcdef0123456789abcdef", "systemd.machine_id=[blanked]"),
    ("BOOT_IMAGE=(hd0,gpt2)/vmlinuz", "BOOT_IMAGE=[blanked]"),
    ("never.heard.of=alice", "never.heard.of=[blanked]"),
    (f"{UUID}=x", "[blanked]"),
    (MAC, "[blanked]"),
    ("S3Z9NB0K123456", "[blanked]"),
    ('name="two words"', "name=[blanked]"),
    ('"name=two words"', "[blanked]"),
    ('iommu="pt root=secret"', "iommu=[blanked]"),
    ('"unbalanced root=secret', "[blanked]"),
]


@pytest.mark.parametrize("parameter", KEPT)
def test_parameters_that_bear_on_groups_and_harmless_ones_stay_to_the_letter(parameter: str) -> None:
    assert redact_cmdline(f"a {parameter}  b") == f"a {parameter}  b"


@pytest.mark.parametrize(("parameter", "expected"), BLANKED)
def test_values_that_may_name_a_disk_a_host_or_an_address_are_blanked(parameter: str, expected: str) -> None:
    assert redact_cmdline(f"quiet {parameter}") == f"quiet {expected}"


def test_what_goes_to_the_first_process_is_blanked() -> None:
    assert redact_cmdline("quiet -- --addr secret=1 iommu=pt") == "quiet -- [blanked] [blanked] [blanked]"


VERSION = "Linux version 6.1.0-50-amd64 ({}) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP Debian 6.1.176-1 (2026-07-02)"


@pytest.mark.parametrize("builder", ["alice@alices-host", "debian-kernel@lists.debian.org"])
def test_the_version_line_loses_its_builder_and_still_tells_the_stable_release(builder: str) -> None:
    line = VERSION.format(builder)

    assert redact_version(line) == VERSION.format("[blanked]")
    assert identify(None, redact_version(line)) == identify(None, line)


LOG_LINES = [
    ("pci 0000:01:00.0: Adding to iommu group 3", None),
    ("serial 0000:00:16.3: Adding to iommu group 3", None),
    ("OF: /pcie@4010000000: no iommu-map translation for id 0x8 on (null)", None),
    ("DMAR: dmar0: reg_base_addr fed90000 ver 1:0 cap d2008c222f0686 ecap f00f5a", None),
    ("vfio-pci 0000:01:00.0: add [10de:1b80[ffffffff:ffffffff]] class 0x000000/00000000", None),
    ("arm-smmu-v3 arm-smmu-v3.0.auto: option mask 0x0", None),
    (f"vfio_mdev {UUID}: Adding to iommu group 2", "vfio_mdev [blanked]: Adding to iommu group 2"),
    (f"e1000 eth0: iommu {MAC}", "e1000 eth0: iommu [blanked]"),
    ("iommu 52-54-00-AB-CD-EF", "iommu [blanked]"),
    ("iommu 52:54:00:ff:fe:ab:cd:ef", "iommu [blanked]"),
    ("iommu at 192.168.7.9", "iommu at [blanked]"),
    ("iommu by alice@example.org", "iommu by [blanked]"),
    ("iommu SerialNumber: XYZ-1, ok", "iommu SerialNumber: [blanked], ok"),
    ("iommu serial=XYZ-1", "iommu serial=[blanked]"),
    ("iommu root=/dev/alice quiet", "iommu root=[blanked] quiet"),
    (
        "DMAR: BIOS vendor: Dell Inc.; Ver: 1.2; Product Version: 7XK42",
        "DMAR: BIOS vendor: [blanked]",
    ),
]


@pytest.mark.parametrize(("line", "expected"), LOG_LINES)
def test_log_lines_lose_what_identifies_and_nothing_else(line: str, expected: str | None) -> None:
    assert redact_log_line(line) == (line if expected is None else expected)


def test_modules_keep_their_names_alone_in_the_form_of_the_file() -> None:
    text = "vfio 36864 2 vfio_pci,\n Live 0xffff\nahci 49152 1 - Live 0xffffffffc031f000 (OE)\na\x1bb 1 0 - Live 0x0\n"

    assert redact_modules(text) == "ahci 0 0 - Live 0x0000000000000000\nvfio 0 0 - Live 0x0000000000000000\n"


def test_an_event_keeps_the_keys_of_the_pci_bus() -> None:
    assert redact_uevent("DRIVER=e1000\nOWNER=alice\nPCI_ID=8086:100E\n") == "DRIVER=e1000\nPCI_ID=8086:100E\n"


WORDS = st.sampled_from(
    [
        UUID,
        MAC,
        "1.2.3.4",
        "a@b.org",
        "serial",
        "number",
        "root=",
        "=",
        ":",
        " ",
        '"',
        "--",
        "iommu=",
        "DMI:",
        "[blanked]",
    ]
)
TEXTS = st.lists(WORDS | st.text(alphabet="ab01-.: =\"'@[]", max_size=4), max_size=12).map("".join)


@pytest.mark.parametrize("redact", [redact_cmdline, redact_version, redact_log_line, redact_modules, redact_uevent])
@given(text=TEXTS)
def test_redacting_twice_is_redacting_once(redact: Callable[[str], str], text: str) -> None:
    once = redact(text)

    assert redact(once) == once


@given(text=TEXTS)
def test_no_uuid_and_no_mac_survives_in_any_text(text: str) -> None:
    plain = re.compile(rf"(?<![\w:-])(?:{UUID}|{MAC})(?![\w:-])")

    assert not plain.search(redact_log_line(text))
