"""The numbers of the simulation, each with its source."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

FromZero = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Channel = Annotated[int, Field(ge=0)]
Triple = tuple[FromZero, FromZero, FromZero]
MOST = 10_000  # particles of a kind in an event


class SimulationConfig(BaseModel):
    """Settings of ``simulate``. Unknown keys are refused, and so are NaN, infinity and ranges that run backwards.

    Values marked "from memory" are the usual textbook ones and were not compared with their source. docs/simulation.md
    shows what comes out, beside frames of ProtoDUNE.

    Particles:
        muons: mean number of cosmic muons that cross one TPC in ``times_us``, along −``up`` of the detector with an
            intensity ∝ cos²θ. Between 18, of PDG's 70 muons above 1 GeV/c in m² s sr along the vertical, and 28, of
            its 1 in cm² min through a horizontal area (both from memory), for a TPC of ProtoDUNE-SP; there 20 give
            16 in the read-out window. The 2021 sample had 12.3 clusters of 50 voxels or more.
        times_us: uniform times of cosmics; the 2021 simulation used −3.325 … +3.125 ms.
        muon_energy_gev: range of kinetic energies, modified Gaisser spectrum (arXiv:1509.06176).
        muon_charge_ratio: µ⁺ per µ⁻, hep-ph/0102042.
        beam_tracks, beam_energy_gev: mean number of charged pions at t = 0 that enter at the low-z side along z, and
            their kinetic energies (uniform); ProtoDUNE-SP's beam had 0.3 … 7 GeV/c. They lose energy and scatter,
            but do not interact.
        beam_angle_deg: their spread (Gaussian, each axis).
        showers, shower_energy_gev: mean number of electron showers at t = 0, and their energies (uniform).
        delta_cut_mev: delta rays above it are tracks of their own; the loss below it is part of the track.
        step_mm: length of a step.

    Argon:
        density_g_cm3: at 87 K (Wire-Cell 1.389).
        radiation_length_cm: 19.55 g/cm² in LArSoft, which quotes PDG. moliere_radius_cm: PDG, as widely quoted.
        critical_energy_mev: PDG, from memory.
        excitation_ev: arXiv:2212.06286, 197 ± 7 eV.
        w_ion_ev: energy for an electron; LArSoft, larnd-sim.
        field_kv_cm: ProtoDUNE-SP.
        box_alpha, box_beta: modified box recombination, JINST 8 P08005; β in (kV/cm)(g/cm²)/MeV.

    Drift and response:
        lifetime_us: 10.4 ms in the 2021 simulation; None: no attachment.
        diffusion_l_cm2_s, diffusion_t_cm2_s: Wire-Cell configurations; measured D_L 3.74 at 274 V/cm
            (arXiv:2104.06551).
        smear_ticks, smear_pitches: signal processing's effective smear of u, v, w, in quadrature with diffusion;
            Wire-Cell's fast-simulation settings.
        gains: charge of u, v, w relative to what arrives; 0.90–1.03 and 0.92–0.96 in the frames of ProtoDUNE.

    Noise and regions of interest:
        noise: rms of u, v, w in electrons a tick. ProtoDUNE-HD has 240, 246 and 193 behind the filter that finds
            regions (``summary`` of its frames); the Gaussian one passes 0.90 of noise of this colour on u and v, and
            0.71 on w. A minimum-ionising track across the wires peaks at about 4400: 20, 20 and 32 times that.
        noise_ticks: σ of the Gaussian filter that limits the noise; 0.12 MHz in ProtoDUNE-SP are 2.65 ticks. 0: none.
        induction_us: time between the two lobes of an induced signal; the gap of ProtoDUNE-SP's planes, 4.76 mm at
            1.565 mm/µs. Dividing them out colours the noise of u and v (see ``noise.amplitude``). 0: as collection.
        noise_low_mhz: low-frequency filter of u and v; the one that finds regions in Wire-Cell has 0.016 MHz. 0: none.
        roi_threshold: signal plus noise above this many rms starts a region; Wire-Cell: 3 induction, 5 collection.
        roi_sure: a region that stays below this many rms is left out, if no region on a neighbouring channel overlaps
            with it; in the way of Wire-Cell, which links regions over neighbours. The numbers are ours: they leave
            0.03 regions of pure noise on a channel of u and v in 3 ms.
        roi_padding: ticks that a region reaches further on both sides; Wire-Cell's default. Outside regions all is 0.
        gaps: probability that a piece of a prolonged region of u or v is lost; an effect that arXiv:1802.08709
            describes without a number: ours. 0: nothing is lost.
        gap_ticks: regions longer than this are prolonged. gap_piece: ticks of a piece.
        gap_peak: pieces that reach this many rms are never lost.
        dead_channels: fraction of channels that are dead in all events, or a list of channel numbers; all are masked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    muons: float = Field(default=20.0, ge=0, le=MOST)
    times_us: tuple[float, float] = (-3325.0, 3125.0)
    muon_energy_gev: tuple[Positive, Positive] = (0.2, 1000.0)
    muon_charge_ratio: float = Field(default=1.268, ge=0)
    beam_tracks: float = Field(default=1.0, ge=0, le=MOST)
    beam_energy_gev: tuple[Positive, Positive] = (0.3, 7.0)
    beam_angle_deg: float = Field(default=5.0, ge=0, lt=90)
    showers: float = Field(default=0.5, ge=0, le=MOST)
    shower_energy_gev: tuple[Positive, Positive] = (0.3, 2.0)
    delta_cut_mev: float = Field(default=0.5, gt=0.05)
    step_mm: float = Field(default=2.0, gt=0.01, le=20)

    density_g_cm3: float = Field(default=1.396, gt=0)
    radiation_length_cm: float = Field(default=14.0, gt=0)
    moliere_radius_cm: float = Field(default=9.04, gt=0)
    critical_energy_mev: float = Field(default=32.8, gt=0)
    excitation_ev: float = Field(default=197.0, gt=0)
    w_ion_ev: float = Field(default=23.6, gt=0)
    field_kv_cm: float = Field(default=0.5, gt=0)
    box_alpha: float = Field(default=0.93, gt=0)
    box_beta: float = Field(default=0.212, gt=0)

    lifetime_us: float | None = Field(default=10_400.0, gt=0)
    diffusion_l_cm2_s: float = Field(default=4.0, ge=0)
    diffusion_t_cm2_s: float = Field(default=8.8, ge=0)
    smear_ticks: Triple = (2.69, 2.68, 2.71)
    smear_pitches: Triple = (0.74, 0.72, 0.14)
    gains: Triple = (1.0, 1.0, 1.0)

    noise: Triple = (215.0, 220.0, 138.0)
    noise_ticks: float = Field(default=2.65, ge=0)
    induction_us: float = Field(default=3.04, ge=0)
    noise_low_mhz: float = Field(default=0.016, ge=0)
    roi_threshold: Triple = (3.0, 3.0, 5.0)
    roi_sure: Triple = (4.5, 4.5, 5.0)
    roi_padding: int = Field(default=5, ge=0)
    gaps: float = Field(default=0.5, ge=0, le=1)
    gap_ticks: int = Field(default=50, ge=1)
    gap_piece: int = Field(default=25, ge=1)
    gap_peak: float = Field(default=6.0, ge=0)
    dead_channels: Fraction | tuple[Channel, ...] = 0.0

    @field_validator("times_us", "muon_energy_gev", "beam_energy_gev", "shower_energy_gev")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"{value[0]} … {value[1]} runs backwards: write the smaller number first")
        return value
