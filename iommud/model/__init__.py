# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled model of ``pci_device_group()``: quirks, topology, requester-ID aliases, ACS, and the ties of groups."""
