"""In which unit a store's truth and charges are, and what an electron is in it."""

from dataclasses import dataclass

from larstore.store import Store

ELECTRONS = "electrons"
FIVE_KE = 5000.0  # electrons
MEV_OF_FIVE_KE = 0.17  # after recombination at 2.1 MeV/cm
ELECTRON_IN = {ELECTRONS: 1.0, "MeV": MEV_OF_FIVE_KE / FIVE_KE}


def electron_in(unit: str) -> float | None:
    """What one electron is in a unit; None where that is not known."""
    return ELECTRON_IN.get(unit)


def truth_unit(store: Store) -> str:
    """The unit of a store's truth: its ``units``, or what `larstore import-xy --truth-units` was told."""
    config = store.attributes["provenance"].get("config")
    told = config.get("truth_units") if isinstance(config, dict) else None
    return str(told or store.attributes["units"])


@dataclass(frozen=True)
class Units:
    """Of the charges of wires and solvers, and of the truth."""

    charge: str = ELECTRONS
    truth: str = ELECTRONS

    @property
    def to_truth(self) -> float | None:
        """What one of the charge's unit is in that of the truth; None where that is not known."""
        if self.charge == self.truth:
            return 1.0
        charge, truth = electron_in(self.charge), electron_in(self.truth)
        return None if charge is None or truth is None else truth / charge


def units_of(store: Store) -> Units:
    """Those of a store."""
    return Units(store.attributes["units"], truth_unit(store))
